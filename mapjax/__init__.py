"""mapjax: vision models in JAX, where everything is a mapping."""

__version__ = "0.1.0"

"""Networks; the only place where flax is imported."""

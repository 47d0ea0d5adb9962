"""What the gradient of every network of segmentation must do."""

import jax
import jax.numpy as jnp
import numpy as np

from mapjax import paths


def assert_finite_and_everywhere(model, variables, images, key):
    """The gradient of a loss of "map_logits" reaches every parameter and is finite; statistics keep their shape."""

    def loss(params):
        outputs, stats = model.apply({**variables, "params": params}, images, train=True, key=key)
        return jnp.square(outputs["map_logits"] - 1).mean(), stats

    gradient, stats = jax.jit(jax.grad(loss, has_aux=True))(variables["params"])
    assert jax.tree.structure(stats) == jax.tree.structure(variables["stats"])
    for path, leaf in zip(paths.paths(gradient), jax.tree.leaves(gradient)):
        assert np.isfinite(leaf).all() and np.abs(leaf).max() > 0, path

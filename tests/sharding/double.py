"""Importing this first makes mapjax calculate in double precision, where it says jnp.float32.

No rounding is then large enough to turn a ReLU or to change which proposals are drawn, which in single precision hides
a small mistake: what differs is wrong.
"""

import jax
import jax.numpy as jnp

from mapjax import stages

jax.config.update("jax_enable_x64", True)
jnp.float32 = jnp.float64
stages.KEYS |= {name: stages.KEYS[name]._replace(dtype="float64") for name in ("logits", "probabilities")}

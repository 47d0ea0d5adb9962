"""Loops over the images of a batch that a mesh splits: each device goes through its own.

The compiler would bring all images of a batch together on every device, where a loop takes some of them at a time.
"""

from collections.abc import Callable, Sequence

import jax
from jax.sharding import PartitionSpec
from jaxtyping import Array

from mapjax.sharding import mesh as shard

AXES = ("data", "fsdp")  # of the mesh, over which images are split


def run(function: Callable[..., Array], *batched: Array, whole: Sequence[Array] = (), summed: bool = False) -> Array:
    """Call `function(*batched, *whole)`, on every device with its own part of the batched arrays.

    Args:
      function: to an array with the batch as its first axis, or one that is the sum over the images (summed).
      batched: arrays whose first axis is the batch; where the devices do not divide it, all run all of it.
    """
    mesh = jax.sharding.get_abstract_mesh()
    ways = shard.ways(mesh)
    if ways == 1 or len(batched[0]) % ways or set(AXES) & set(mesh.manual_axes):
        return function(*batched, *whole)

    def own(*arguments: Array) -> Array:
        found = function(*arguments)
        return jax.lax.psum(found, AXES) if summed else found

    given = (shard.BATCH,) * len(batched) + (PartitionSpec(),) * len(whole)
    result = PartitionSpec() if summed else shard.BATCH
    mapped = jax.shard_map(own, in_specs=given, out_specs=result, axis_names=set(AXES), check_vma=False)
    return mapped(*batched, *whole)

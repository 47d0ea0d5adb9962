"""Pipeline parallelism: a stack of equal blocks cut over the mesh axis `pipe` (GPipe, Huang et al. 2019).

Each device holds depth / p neighbouring blocks. The batch goes through in m micro-batches: in tick t device i works on
micro-batch t - i and hands it on, so of m + p - 1 ticks every device idles for p - 1: the bubble. The gradient is the
same loop backwards. A device has all numbers of its blocks: what `fsdp` splits is gathered once a step, and gradients
are summed over `data` and `fsdp` once, not in every tick. `model` stays with the compiler.

Why not the interleaved schedule (Narayanan et al. 2021), where a device holds v groups of blocks, p groups apart? Its
bubble, (p - 1) / (v m + p - 1), is that of v m micro-batches here. Of p = 4 devices 27 % of the time is idle with
m = 8; 16 % with v = 2, or with m = 16; 9 % with v = 4, or with m = 32. More micro-batches cost nothing while each is
still some hundred rows to multiply, and one image of a ViT/16 has 197 tokens. Interleaving sends v times the bytes,
and stores the blocks in an order that depends on p, so that no run could go on with other devices.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, PyTree

from mapjax.errors import UserError
from mapjax.sharding import mesh as shard

Block = Callable[[Any, Any, Any], Any]

PARTS = ("data", "fsdp")  # of a batch


def bubble(stages: int, micro_batches: int) -> float:
    """Give the share of a step that a device idles: (p - 1) / (m + p - 1)."""
    return (stages - 1) / (micro_batches + stages - 1)


def apply(
    block: Block,
    stack: PyTree,
    x: Float[Array, "b *d"],
    *,
    micro_batches: int = 1,
    exact: bool = True,
    partly: bool = False,
) -> tuple[Float[Array, "b *d"], Float[Array, "depth b *d"] | None]:
    """Apply a stack of blocks, over the `pipe` devices of the mesh in context (`jax.set_mesh`) where there are any.

    Args:
      block: (one block's slice of `stack`, x, number) -> x of the same shape and dtype; each part of a batch that a
        device works on has a number of its own.
      stack: what the blocks differ in; every leaf has depth as its first axis.
      x: the batch.
      micro_batches: that it is cut into; only where there is a pipeline.
      exact: refuse a batch that does not divide into so many; else it is cut into fewer.
      partly: it is one of several stacks, and where its depth does not divide, every device applies it all; else that
        is refused.

    Returns:
      What the last block gives; and what each gives, or None in a pipeline, where no device holds it all.

    Raises:
      UserError: depth does not divide over the devices, or the batch over devices and micro-batches.
    """
    mesh = jax.sharding.get_abstract_mesh()
    stages = shard.size(mesh, "pipe")
    depth = len(jax.tree.leaves(stack)[0])
    if stages == 1 or (partly and depth % stages):
        return _in_turn(block, stack, x, 0)
    if depth % stages:
        raise UserError(f"mesh.pipe={stages} does not divide the {depth} blocks of the network.")
    ways = shard.ways(mesh)
    if not exact:
        micro_batches = math.gcd(len(x) // ways, micro_batches)
    if len(x) % (ways * micro_batches):
        raise UserError(
            f"a batch of {len(x)} does not divide into {micro_batches} micro-batches on {ways} devices (mesh "
            f"data×fsdp); use a multiple of {ways * micro_batches}."
        )

    def stage(stack, x, number):
        return _in_turn(block, stack, x, number)[0]

    # Micro-batch i is every m-th example, so a batch that is sharded over devices stays where it is.
    micro = jnp.moveaxis(x.reshape(-1, micro_batches, *x.shape[1:]), 1, 0)
    blocks, batch = PartitionSpec("pipe"), PartitionSpec(None, *shard.BATCH)
    run = jax.shard_map(
        _schedule(stage, stages), in_specs=(blocks, batch), out_specs=batch, axis_names={"pipe", *PARTS}
    )
    return jnp.moveaxis(run(stack, micro), 0, 1).reshape(x.shape), None


def _in_turn(block: Block, stack: PyTree, x, number):
    def body(x, one):
        x = block(one, x, number)
        return x, x

    return jax.lax.scan(body, x, stack)


def _schedule(stage: Block, stages: int) -> Callable[[PyTree, Any], Any]:
    """Make what one device does: (its part of the stack, its part of the micro-batches (m b *d)) -> their outputs."""
    onward = [(i, (i + 1) % stages) for i in range(stages)]

    def run(stack, micro):
        here, part = jax.lax.axis_index("pipe"), jax.lax.axis_index(PARTS)
        parts = math.prod(jax.lax.axis_size(axis) for axis in PARTS)
        # What is the same on several devices is said to differ from here on, and not where it is used, in every tick:
        # there the backward pass would sum over these devices tick by tick.
        stack = jax.tree.map(lambda leaf: _differing(leaf, PARTS), stack)
        micro = _differing(micro, ("pipe",))

        def tick(received, now):
            number, fresh = now
            x = stage(stack, jnp.where(here == 0, fresh, received), (number - here) * parts + part)
            return jax.lax.ppermute(x, "pipe", onward), x

        ticks = len(micro) + stages - 1
        nothing = _differing(jnp.zeros((stages - 1, *micro.shape[1:]), micro.dtype), ("pipe", *PARTS))
        padded = jnp.concatenate([micro, nothing])
        _, outputs = jax.lax.scan(tick, nothing[0], (jnp.arange(ticks), padded))
        last = outputs[stages - 1 :]
        return jax.lax.psum(jnp.where(here == stages - 1, last, jnp.zeros_like(last)), "pipe")

    return run


def _differing(x, axes: tuple[str, ...]):
    """Say of numbers that they may differ along axes of the mesh; of others, such as keys, nothing is summed."""
    return jax.lax.pcast(x, axes, to="varying") if jnp.issubdtype(x.dtype, jnp.inexact) else x

"""Compiles and runs pipelines of equal blocks on forced devices, and prints what each device does; a program.

    python tests/sharding/pipelines.py '[[4, 8]]'

Each case is devices and micro-batches. A line of JSON a case: the FLOPs of the forward and backward pass on one of
those devices and on one that does all alone, and how far loss and gradients differ. The first line says how many of 8
parts of a batch draw their own random numbers.
"""

import json
import os
import sys

os.environ["NPROC"] = "256"  # threads, of which a collective holds one until all devices have come
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8 --xla_cpu_multi_thread_eigen=false"
)

import jax
import jax.numpy as jnp
import numpy as np
from compare import difference

from mapjax.plan import cost, hlo
from mapjax.sharding import mesh as shard
from mapjax.sharding import pipeline

DEPTH, BATCH, ROWS, WIDTH = 8, 16, 32, 64


def block(one, x, number):
    """Give a block with two matrix products, as an MLP is."""
    del number
    return x + jnp.tanh(x @ one["in"]) @ one["out"]


def measured(stages: int, micro: int, stack, x):
    """Give FLOPs a device, and the loss with its gradients."""
    mesh = shard.make_mesh({"pipe": stages}, jax.devices()[:stages])

    def loss(stack, x):
        return jnp.square(pipeline.apply(block, stack, x, micro_batches=micro)[0]).mean()

    with jax.set_mesh(mesh):
        compiled = jax.jit(jax.value_and_grad(loss, (0, 1))).lower(stack, x).compile()
    placed = jax.device_put((stack, x), compiled.input_shardings[0])
    flops = sum(one.flops for one in cost.of_module(hlo.parse(compiled.as_text())))
    return flops, jax.device_get(compiled(*placed))


def drawn() -> int:
    """Give how many examples of 8 get random numbers of their own, each being a part of the batch by itself."""
    stack = {"key": jax.random.split(jax.random.key(0), 2)}

    def noisy(one, x, number):
        return x + jax.random.normal(jax.random.fold_in(one["key"], number), x.shape)

    with jax.set_mesh(shard.make_mesh({"data": 2, "fsdp": 2, "pipe": 2})):
        found = jax.jit(lambda stack, x: pipeline.apply(noisy, stack, x, micro_batches=2)[0])(stack, jnp.zeros((8, 3)))
    return len(np.unique(jax.device_get(found), axis=0))


def main() -> None:
    """Run the cases."""
    print(json.dumps({"drawn": drawn()}), flush=True)
    rng = np.random.default_rng(0)
    stack = {
        "in": rng.normal(size=(DEPTH, WIDTH, 2 * WIDTH)).astype(np.float32) / 8,
        "out": rng.normal(size=(DEPTH, 2 * WIDTH, WIDTH)).astype(np.float32) / 16,
    }
    x = rng.normal(size=(BATCH, ROWS, WIDTH)).astype(np.float32)
    alone = measured(1, 1, stack, x)
    for stages, micro in json.loads(sys.argv[1]):
        flops, found = measured(stages, micro, stack, x)
        report = {"flops": flops, "alone": alone[0], "difference": difference(alone[1], found)}
        print(json.dumps(report), flush=True)


if __name__ == "__main__":
    main()

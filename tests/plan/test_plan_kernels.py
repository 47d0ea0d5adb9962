"""Kernels of set prediction, compiled for a TPU slice that is not here: what the compiler makes of them."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
COMPILED = """
import json
from mapjax.plan import topology
topology.prepare("v5e:2x4")
import jax, jax.numpy as jnp
from mapjax.ops import deformable, hungarian
from mapjax.plan import cost, hlo
from mapjax.sharding import mesh as shard

mesh = shard.make_mesh({"data": 8, "fsdp": 1, "model": 1, "pipe": 1}, topology.open_place("v5e:2x4").devices)
place = jax.sharding.NamedSharding(mesh, shard.BATCH)

def compiled(function, *shapes):
    given = [jax.ShapeDtypeStruct(shape, kind, sharding=place) for shape, kind in shapes]
    with jax.set_mesh(mesh):
        text = jax.jit(function).lower(*given).compile().as_text()
    return [(one.kind, one.instruction.opcode, one.known) for one in cost.of_module(hlo.parse(text))]

def match(costs, valid):
    layers = jax.vmap(jax.vmap(hungarian.assign, (0, None)))
    return shard.per_example(layers)(costs, valid)

def read(fine, coarse, places, weights):
    return deformable.sample([fine, coarse], places, weights).astype(jnp.float32).sum()

maps = [((8, side, side, 2, 8), jnp.bfloat16) for side in (16, 8)]
places = ((8, 24, 2, 2, 4, 2), jnp.float32), ((8, 24, 2, 2, 4), jnp.float32)
matched = compiled(match, ((8, 3, 20, 60), jnp.float32), ((8, 20), jnp.bool_))
print(json.dumps([matched, compiled(jax.grad(read, (0, 1, 2, 3)), *maps, *places)]))
"""


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None and "TPU_LIBRARY_PATH" not in os.environ, reason="needs libtpu"
)
def test_matching_and_sampling_on_a_tpu_slice():
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", COMPILED]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    matched, sampled = json.loads(done.stdout.splitlines()[-1])
    for found in (matched, sampled):
        assert found and not [one for one in found if one[0] == "collective"]  # each chip has its own images
    assert any(not known for _, _, known in matched)  # turns that depend on costs
    kinds = {kind for kind, _, _ in sampled}
    assert "product" in kinds and not kinds & {"gather", "scatter", "sort"}

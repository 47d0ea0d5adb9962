"""What a pipeline costs beyond the work itself, as the compiled program has it, and what it refuses."""

import json
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AbstractMesh

from mapjax.errors import UserError
from mapjax.sharding import mesh as shard
from mapjax.sharding import pipeline

CASES = [(2, 1), (2, 16), (4, 4), (8, 4)]  # devices, micro-batches


@pytest.fixture(scope="module")
def reports():
    """What each case was seen to do."""
    program = pathlib.Path(__file__).with_name("pipelines.py")
    command = [sys.executable, str(program), json.dumps(CASES)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(zip([None, *CASES], map(json.loads, done.stdout.splitlines()), strict=True))


@pytest.mark.process
@pytest.mark.parametrize("case", CASES)
def test_the_bubble_is_what_is_stated(reports, case):
    """A device computes in every tick, also in those that idle, so that its FLOPs are the time that it is kept."""
    (stages, micro), report = case, reports[case]
    ideal = report["alone"] / stages
    assert report["flops"] / ideal == pytest.approx((micro + stages - 1) / micro, rel=1e-3)
    assert 1 - ideal / report["flops"] == pytest.approx(pipeline.bubble(stages, micro), abs=1e-3)


@pytest.mark.process
@pytest.mark.parametrize("case", CASES)
def test_loss_and_gradients_are_those_of_one_device(reports, case):
    assert reports[case]["difference"] < 1e-5


@pytest.mark.process
def test_no_two_parts_of_a_batch_draw_the_same(reports):
    assert reports[None]["drawn"] == 8


@pytest.mark.parametrize(
    ("sizes", "blocks", "batch", "message"),
    [
        ({"pipe": 2}, 3, 8, r"mesh.pipe=2 does not divide the 3 blocks"),
        ({"pipe": 2}, 4, 6, r"a batch of 6 does not divide into 4 micro-batches on 1 devices .*multiple of 4"),
        ({"data": 2, "fsdp": 2, "pipe": 2}, 4, 8, r"into 4 micro-batches on 4 devices .*multiple of 16"),
    ],
)
def test_what_does_not_divide(sizes, blocks, batch, message):
    mesh = AbstractMesh(tuple((dict.fromkeys(shard.AXES, 1) | sizes).values()), shard.AXES)
    stack, x = jnp.zeros((blocks, 2)), jnp.zeros((batch, 3))  # made before: nothing can be on an abstract mesh
    with jax.sharding.use_abstract_mesh(mesh), pytest.raises(UserError, match=message):
        pipeline.apply(lambda one, x, number: x, stack, x, micro_batches=4)

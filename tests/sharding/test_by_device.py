"""Loops over images on 8 devices: each goes through its own, nothing is gathered, and the values are those of one."""

import json
import pathlib
import subprocess
import sys

import pytest

pytestmark = pytest.mark.process

PROGRAM = """
import json, os, sys
os.environ["NPROC"] = "256"  # threads, of which a collective holds one until all devices have come
os.environ["XLA_FLAGS"] += " --xla_force_host_platform_device_count=8 --xla_cpu_multi_thread_eigen=false"
sys.path[:0] = [{root!r}]
import jax, numpy as np
from mapjax.sharding import mesh as shard
from mapjax.ops import convolution, winograd
from mapjax.plan import collectives

winograd.MOST_TILES = 2**16  # so that few images go together
rng = np.random.default_rng(0)
kernels = [rng.normal(size=(size, size, 1, 8)).astype(np.float32) for size in (3, 5)]
images = rng.normal(size=(16, 32, 32, 8)).astype(np.float32)
wide = rng.normal(size=(16, 16, 16, 32)).astype(np.float32)
kernel = rng.normal(size=(3, 3, 32, 32)).astype(np.float32)

def depthwise(kernels, images):
    for kernel, stride in zip(kernels, (1, 2)):
        images = convolution.conv(images, kernel, stride, groups=8)
    return (images ** 2).mean()

def tiles(kernel, images):
    assert winograd._chunks(images.shape, 32) > 1
    return (convolution.conv(images, kernel) ** 2).mean()

def gradient(loss, params, images, mesh):
    placed = jax.device_put(images, shard.batch_sharding(mesh, 16))
    params = jax.device_put(params, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec()))
    with jax.set_mesh(mesh):
        compiled = jax.jit(jax.grad(loss, (0, 1))).lower(params, placed).compile()
    return jax.tree.leaves(jax.device_get(compiled(params, placed))), compiled.as_text()

report = {{}}
one, eight = shard.make_mesh({{"data": 1}}, jax.devices()[:1]), shard.make_mesh({{"data": 4, "fsdp": 2}})
for loss, params, images in ((depthwise, kernels, images), (tiles, kernel, wide)):
    (alone, _), (split, text) = (gradient(loss, params, images, mesh) for mesh in (one, eight))
    apart = sum(float(np.square(a - b).sum()) for a, b in zip(alone, split))
    found = sorted({{(each.kind, each.axes) for each in collectives.find(text, eight)}})
    report[loss.__name__] = (apart / sum(float(np.square(a).sum()) for a in alone)) ** 0.5, found
print(json.dumps(report))
"""


def test_each_device_goes_through_its_own_images():
    command = [sys.executable, "-c", PROGRAM.format(root=str(pathlib.Path(__file__).parents[2]))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads(done.stdout.splitlines()[-1])
    for name in ("depthwise", "tiles"):
        apart, found = report[name]
        assert apart < 1e-5, name
        assert found == [["all-reduce", ["data", "fsdp"]]], name

"""What mapjax is timed against is the same network."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mapjax.cli import bench
from mapjax.config import load as configs
from mapjax.config import parts

pytestmark = pytest.mark.parity


def numbers(node):
    model = parts.make("models", node, classes=11)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    return sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]))


def test_the_u_nets_have_the_same_parameters_and_maps():
    torch = pytest.importorskip("torch")
    from mapjax.cli import bench_peers

    peer = bench_peers.UNet()
    assert sum(one.numel() for one in peer.parameters()) == numbers({"name": "unet"})
    assert peer.eval()(torch.zeros(1, 3, 48, 32)).shape == (1, 11, 48, 32)


def test_steps_of_the_peers_learn():
    pytest.importorskip("torchvision")
    from mapjax.cli import bench_peers

    bench_peers.network("unet", 1, 32, train=True)()
    bench_peers.network("resnet18", 2, 32, train=False)()
    sizes = {"batch": "1", "image_size": "(64, 64)", "optimizer.name": "sgd"}
    bench_peers.detector_step(configs.load("detect", bench.LIKE | sizes))()


def test_the_peer_of_masks_is_the_same_network():
    pytest.importorskip("torchvision")
    from mapjax.cli import bench_peers

    sizes = {"batch": "1", "image_size": "(64, 64)"}
    config: Any = configs.load("instance:nuclei", bench.LIKE | bench.LIKE_MASKS | sizes)
    model = parts.make("models", config.model.to_dict(), classes=3, image_size=(64, 64))
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))["params"]
    peer = bench_peers._detector(config)
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == sum(one.numel() for one in peer.parameters())
    bench_peers.detector_step(config, boxes=[np.array([[4, 4, 30, 20]], np.float32)])()


@pytest.mark.parametrize("name", bench.ONE_STAGE)
def test_one_stage_detectors_are_the_same_networks(name):
    pytest.importorskip("torchvision")
    pytest.importorskip("transformers")
    from mapjax.cli import bench_detectors, bench_peer_detectors

    config = bench_detectors.config_of(name, 1, 128)
    model = parts.make("models", config.model.to_dict(), classes=bench_detectors.CLASSES)
    images = jnp.zeros((1, *config.image_size, 3))
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)["params"]
    peer = bench_peer_detectors._network(name)
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == sum(one.numel() for one in peer.parameters())
    forward, step = bench_peer_detectors.calls(name, config)
    forward()
    step()

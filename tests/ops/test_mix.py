"""Mixup and CutMix against their definitions, by the values of images of one colour each."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from mapjax.ops import mix

BATCH, FRAME, CLASSES = 4, (12, 20), 5
IMAGES = jnp.broadcast_to(jnp.arange(1.0, BATCH + 1)[:, None, None, None], (BATCH, *FRAME, 3))
TARGETS = jax.nn.one_hot(jnp.array([0, 3, 1, 4]), CLASSES)  # no two neighbours of one class
KEYS = jax.random.split(jax.random.key(0), 600)


def mixed(**options):
    return jax.jit(jax.vmap(lambda key: mix.mix(key, IMAGES, TARGETS, **options)))(KEYS)


def shares(targets):
    """λ of each batch, from the first image's own class."""
    return np.asarray(targets[:, 0, 0])


@pytest.mark.parametrize("alpha", [0.2, 1.0])
def test_mixup_is_a_blend_with_the_neighbour(alpha):
    images, targets = mixed(mixup=alpha)
    share = shares(targets)
    assert scipy.stats.kstest(share, scipy.stats.beta(alpha, alpha).cdf).pvalue > 0.01
    np.testing.assert_allclose(targets.sum(-1), 1, rtol=1e-6)
    own, neighbour = np.arange(1, BATCH + 1), np.roll(np.arange(1, BATCH + 1), 1)
    expected = share[:, None] * own + (1 - share[:, None]) * neighbour
    np.testing.assert_allclose(images, np.broadcast_to(expected[:, :, None, None, None], images.shape), rtol=1e-5)
    blend = share[:, None, None] * TARGETS + (1 - share[:, None, None]) * np.roll(TARGETS, 1, axis=0)
    np.testing.assert_allclose(targets, blend, rtol=1e-5, atol=1e-7)


def test_cutmix_shares_targets_by_the_exact_area():
    images, targets = map(np.asarray, mixed(cutmix=1.0))
    own = images == np.arange(1, BATCH + 1)[:, None, None, None]
    neighbour = images == np.roll(np.arange(1, BATCH + 1), 1)[:, None, None, None]
    assert (own ^ neighbour).all()
    np.testing.assert_allclose(own.mean(axis=(2, 3, 4)), np.tile(shares(targets)[:, None], BATCH), rtol=1e-6)
    np.testing.assert_allclose(targets.sum(-1), 1, rtol=1e-6)
    cut = ~own[:, 0, :, :, 0]
    rows, columns = cut.any(axis=2), cut.any(axis=1)
    np.testing.assert_array_equal(cut, rows[:, :, None] & columns[:, None, :])  # one rectangle
    assert all((np.diff(np.flatnonzero(line)) == 1).all() for line in (*rows, *columns))
    assert rows.all(axis=0).sum() == 0 and rows.any(axis=0).all() and columns.any(axis=0).all()


def test_the_box_has_the_share_asked_for_where_it_is_not_clipped():
    boxes = jax.vmap(lambda key: mix.cut_box(key, jnp.float32(0.75), (40, 60)))(KEYS)
    sides = np.stack([boxes.any(axis=2).sum(axis=1), boxes.any(axis=1).sum(axis=1)], axis=1)
    assert sides.max(axis=0).tolist() == [20, 30] and (np.median(sides, axis=0) >= [19, 29]).all()
    assert not mix.cut_box(KEYS[0], jnp.float32(1.0), (40, 60)).any()


def test_one_of_the_two_is_drawn_for_a_batch_if_any():
    images, targets = map(np.asarray, mixed(mixup=1.0, cutmix=1.0, probability=0.7))
    alone = shares(targets) == 1
    assert 0.22 < alone.mean() < 0.38
    np.testing.assert_array_equal(images[alone], np.broadcast_to(IMAGES, images[alone].shape))
    np.testing.assert_array_equal(targets[alone], np.broadcast_to(TARGETS, targets[alone].shape))
    cut = np.isin(images, np.arange(1, BATCH + 1)).all(axis=(1, 2, 3, 4)) & ~alone
    blended = (images[:, :, :1, :1, :1] == images).all(axis=(1, 2, 3, 4)) & ~alone
    assert 0.4 < cut.sum() / (~alone).sum() < 0.6
    assert (alone | cut | blended).all() and not (cut & blended).any()


def test_without_alpha_the_inputs_come_back():
    images, targets = mix.mix(KEYS[0], IMAGES, TARGETS)
    assert images is IMAGES and targets is TARGETS


def test_the_same_key_mixes_the_same_and_the_dtype_stays():
    half = IMAGES.astype(jnp.bfloat16)
    images, targets = mix.mix(KEYS[3], half, TARGETS, cutmix=1.0)
    assert images.dtype == jnp.bfloat16 and targets.dtype == jnp.float32
    again = jax.jit(lambda key: mix.mix(key, half, TARGETS, cutmix=1.0))(KEYS[3])
    np.testing.assert_array_equal(images.astype(np.float32), again[0].astype(np.float32))
    np.testing.assert_allclose(targets, again[1], rtol=1e-6)


SPLIT = """
import re, jax, numpy as np
from mapjax.ops import mix
mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
images = np.random.default_rng(0).random((8, 6, 6, 3), np.float32)
given = jax.random.key(0), images, np.eye(8, 5, dtype=np.float32)
step = lambda key, images, targets: mix.mix(key, images, targets, cutmix=1.0)
split = jax.jit(step, in_shardings=(None, rows, rows)).lower(*given).compile()
found = re.findall(r"(\\S+) (collective-permute|all-gather|all-reduce|all-to-all)(?:-start)?\\(", split.as_text())
print(sorted((kind, shape.split("{")[0]) for shape, kind in found))
alone, shared = jax.jit(step)(*given), split(given[0], *(jax.device_put(array, rows) for array in given[1:]))
print(all(np.array_equal(one, other) for one, other in zip(alone, shared)))
"""


@pytest.mark.process
def test_a_batch_over_devices_exchanges_one_row_with_the_neighbour():
    flags = {"XLA_FLAGS": os.environ["XLA_FLAGS"] + " --xla_force_host_platform_device_count=4", "NPROC": "256"}
    told = subprocess.run([sys.executable, "-c", SPLIT], env={**os.environ, **flags}, capture_output=True, text=True)
    assert told.returncode == 0, told.stderr
    moved, same = told.stdout.strip().splitlines()
    assert moved == "[('collective-permute', 'f32[1,5]'), ('collective-permute', 'f32[1,6,6,3]')]"
    assert same == "True"

"""Principal components: equal to scikit-learn's, in any batches, over any devices."""

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA

from mapjax.errors import UserError
from mapjax.explain import pca
from mapjax.explain.probe import in_chunks
from mapjax.sharding import mesh

MESH = mesh.make_mesh({"data": -1})
DIGITS = (load_digits().data / 16).astype(np.float32)  # pyright: ignore


@pytest.mark.parametrize("size", [100, 1797])
def test_equals_scikit_learn(size):
    found = pca.fit(in_chunks(DIGITS, MESH, size), 12, passes=12)
    expected = PCA(12).fit(DIGITS)
    np.testing.assert_allclose(found.mean, expected.mean_, atol=1e-5)
    np.testing.assert_allclose(found.variance, expected.explained_variance_, rtol=1e-3)
    share = float(found.variance.sum() / found.total_variance)
    assert share == pytest.approx(expected.explained_variance_ratio_.sum(), rel=1e-3)
    alike = np.abs((np.asarray(found.components) * expected.components_).sum(1))
    np.testing.assert_allclose(alike, 1, atol=1e-3)
    ours, theirs = found.inverse(found.transform(DIGITS)), expected.inverse_transform(expected.transform(DIGITS))
    np.testing.assert_allclose(ours, theirs, atol=5e-3)


@settings(max_examples=10)
@given(seed=st.integers(0, 100))
def test_all_components_lose_nothing(seed):
    x = np.random.default_rng(seed).normal(size=(20, 6)).astype(np.float32)
    found = pca.fit(in_chunks(x, MESH, 7), 6)
    np.testing.assert_allclose(found.inverse(found.transform(x)), x, atol=1e-4)
    np.testing.assert_allclose(found.components @ found.components.T, np.eye(6), atol=1e-4)
    assert float(found.variance.sum()) == pytest.approx(float(found.total_variance), rel=1e-3)


def test_too_many_components():
    with pytest.raises(UserError, match=r"7 components cannot be found in 20 rows of 6 columns"):
        pca.fit(in_chunks(np.zeros((20, 6), np.float32), MESH), 7)
    with pytest.raises(UserError, match="no features"):
        pca.fit(lambda: [], 1)


PROGRAM = """
import jax, numpy as np
from mapjax.sharding import mesh as shard
from mapjax.explain import pca
from mapjax.explain.probe import in_chunks
x = np.random.default_rng(0).normal(size=(64, 6)).astype(np.float32) * np.arange(1, 7)
mesh = shard.make_mesh({"data": -1})
assert len(next(in_chunks(x, mesh, 32)()).sharding.device_set) == jax.device_count() == 4
found = pca.fit(in_chunks(x, mesh, 32), 6)
np.testing.assert_allclose(found.variance, np.linalg.eigvalsh(np.cov(x.T))[::-1], rtol=1e-3)
"""


@pytest.mark.process
def test_over_several_devices():
    flags = os.environ["XLA_FLAGS"] + " --xla_force_host_platform_device_count=4"
    env = {**os.environ, "XLA_FLAGS": flags, "NPROC": "256"}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=env, text=True, capture_output=True, timeout=200)
    assert done.returncode == 0, done.stderr

"""Shapes in annotations are checked at test time; a compilation cache keeps repeated runs short."""

import gc
import importlib.metadata
import os
import pathlib
import platform
import signal
import tempfile

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(pathlib.Path(tempfile.gettempdir()) / "mapjax-jax-cache"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

import hypothesis
import pytest
from jaxtyping import install_import_hook

install_import_hook("mapjax", "beartype.beartype")

# How long an example takes, or its drawing, is the machine's matter, and no mistake on a busy one.
hypothesis.settings.register_profile("untimed", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("untimed")


def pytest_configure(config):
    """Make machine code quickly, here and in all processes that tests start: most of it runs a few times only.

    It comes from the same programs of XLA. Its older emitter computes a value at each place of its use: without fused
    multiply-add, which LLVM forms at some of them, it is the same everywhere. From jaxlib 0.12 on there is no such
    emitter, and XLA ends a process that gives it a flag it does not know. Parity is of the code that users have.
    """
    quickly = importlib.metadata.version("jaxlib").startswith("0.10.") and platform.machine() in ("x86_64", "AMD64")
    if quickly and config.option.markexpr != "parity":
        os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
        os.environ.setdefault("XLA_FLAGS", "--xla_cpu_use_fusion_emitters=false --xla_cpu_max_isa=AVX")
    os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "0")
    os.environ.setdefault("XLA_FLAGS", "")


def pytest_collection_finish():
    """Look for garbage less often, and not among all that is imported: it was a fifth of the tests' time."""
    gc.set_threshold(20_000, 20, 20)
    gc.freeze()


@pytest.fixture
def full_compiler(monkeypatch):
    """Machine code as users have it, in the processes that a test starts: where its speed is what is tested."""
    for name in ("JAX_DISABLE_MOST_OPTIMIZATIONS", "XLA_FLAGS"):
        monkeypatch.delenv(name)


@pytest.fixture(scope="module")
def plain_convolutions():
    """Convolutions in XLA's own form, in this process: a network of a CPU's fast forms takes longer to compile.

    Values and gradients of those are held against this one in tests/ops; test_fit.py and the programs train with them.
    """
    from mapjax.ops import convolution

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(convolution, "_by_platform", lambda x, kernel, fast, gradients, slow: slow(x, kernel))
        yield


@pytest.fixture
def hangups_heard():
    """SIGHUP as a terminal's programs have it, where `nohup` has the tests, and all that they start, ignore it."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


def pytest_collection_modifyitems(items):
    """Take files that start processes of their own first: they are the long ones, and workers end together then."""
    long = {item.path for item in items if item.get_closest_marker("process")}
    items.sort(key=lambda item: item.path not in long)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Give all tests of a file to one worker: what they share is made once, and what they compile is compiled once."""
    from xdist.scheduler import LoadFileScheduling

    if config.getoption("dist") != "load":  # asked for otherwise
        return None
    config.option.loadscopereorder = False  # in the order above
    return LoadFileScheduling(config, log)

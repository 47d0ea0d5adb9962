"""What a step frees stays with the process on a CPU, and only there."""

import subprocess
import sys

import pytest

PROGRAM = """
import sys
from mapjax.runtime import allocator as heap
kept = heap.keep()
import resource
import numpy as np
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(64 << 20, np.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(kept, faults())
"""


def told(**environment: str) -> tuple[bool, int]:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, env=environment, check=True)
    kept, faults = done.stdout.split()
    return kept == "True", int(faults)


@pytest.mark.skipif(sys.platform != "linux", reason="of glibc")
def test_freed_memory_is_there_again_without_the_system():
    kept, faults = told(JAX_PLATFORMS="cpu")
    assert kept and faults < 100
    kept, faults = told(JAX_PLATFORMS="cpu", MALLOC_ARENA_MAX="2")
    assert not kept and faults >= 32, "the least that 64 MiB take, in huge pages"


@pytest.mark.skipif(sys.platform != "linux", reason="of glibc")
def test_not_beside_an_accelerator():
    assert told(JAX_PLATFORMS="cuda,cpu")[0] is False

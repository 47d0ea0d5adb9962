"""Memory that a step has freed stays with the process for the next step, where steps run on CPUs.

XLA allocates the temporaries of every step anew. The C library gives large ones back to the system when they are freed,
and the system hands them out again page by page, cleared: up to a quarter of the time of a small network's step. Where
the system offers pages of 2 MB on request (Linux's transparent huge pages), they are asked for: another quarter.
"""

import ctypes
import os
import pathlib
import platform

# Of <malloc.h>.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX, _ARENA_MAX = -1, -2, -4, -8
_PAD = 1 << 30  # bytes that the heap grows by at a time; what nobody touches takes no memory
_HUGEPAGE = 14  # MADV_HUGEPAGE of <sys/mman.h>
_ACCELERATORS = ("nvidia[0-9]*", "accel*", "vfio/[0-9]*", "kfd")


def keep() -> bool:
    """Have glibc keep what is freed; before JAX starts its threads. Gives whether it does.

    Not where there is an accelerator, whose hosts have many threads to read data, nor where MALLOC_ARENA_MAX is set.
    """
    if platform.libc_ver()[0] != "glibc" or "MALLOC_ARENA_MAX" in os.environ or not _on_cpu():
        return False
    mallopt = ctypes.CDLL(None).mallopt
    # One heap, which never shrinks, and nothing beside it: heaps of threads shrink whatever the threshold says.
    options = {_ARENA_MAX: 1, _MMAP_MAX: 0, _TRIM_THRESHOLD: -1, _TOP_PAD: _PAD}
    done = [mallopt(option, value) == 1 for option, value in options.items()]
    _ask_for_huge_pages()
    return all(done)


def _ask_for_huge_pages() -> None:
    """Grow the heap once to the size of the memory, and ask for its pages to be huge; the kernel may refuse.

    Growth later on would be a mapping of its own, without that request.
    """
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    libc.free(libc.malloc(_bytes_of_memory() // 2))
    heap = next((line for line in pathlib.Path("/proc/self/maps").read_text().splitlines() if "[heap]" in line), None)
    if heap:
        first, end = (int(address, 16) for address in heap.split()[0].split("-"))
        libc.madvise(first, end - first, _HUGEPAGE)


def _bytes_of_memory() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _on_cpu() -> bool:
    asked = os.environ.get("JAX_PLATFORMS", "")
    if asked:
        return asked == "cpu"
    return not any(any(pathlib.Path("/dev").glob(name)) for name in _ACCELERATORS)

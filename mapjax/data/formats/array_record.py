"""Data sets that `mapjax prepare` wrote: see `mapjax.data.prepared.reader`."""

from mapjax.data.prepared.reader import make

__all__ = ["make"]

"""Data sets that `mapjax prepare` wrote: see `mapjax.data.prepared.reader`."""

from mapjax.data.prepared.reader import make

ABOUT = "array_record:DIR (what mapjax prepare wrote)"

__all__ = ["make"]

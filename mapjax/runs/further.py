"""The further streams of a config: what a batch holds besides its main data.

    streams={"unlabelled": {"data": {"name": "folder", "path": DIR}, "share": 2.0}}

The keys of one are STREAM in config/schema.py.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from jax.sharding import Mesh

from mapjax import stages
from mapjax.config import parts
from mapjax.data import labels, streams
from mapjax.data.source import Source
from mapjax.data.streams import Stream
from mapjax.errors import UserError, near
from mapjax.runs import sources
from mapjax.sharding import mesh as shard
from mapjax.task import Batch

LABELS = {"valid", "truth_map", *(key for kind in labels.KINDS.values() for key in kind.keys)}  # of an example


def make(
    config: Any, train: Source, stand_in: Callable[[Mapping[str, Any]], Source | None] = lambda data: None
) -> tuple[Stream, ...]:
    """Make the further streams of a config, whose main data is `train`.

    Args:
      stand_in: gives what is taken in place of some data (a plan has none of it), or None.

    Raises:
      UserError: no room in a batch, no such labels, or other classes.
    """
    return tuple(_stream(config, train, name, node, stand_in) for name, node in config.streams.to_dict().items())


def _stream(config: Any, train: Source, name: str, asked: Mapping[str, Any], stand_in: Callable[..., Any]) -> Stream:
    where, needs = f"streams.{name}", asked["needs"]
    if name in stages.KEYS:
        raise UserError(f"{where}: a batch has a key of this name already; choose another.")
    if needs and needs not in labels.KINDS:
        raise UserError(f"{where}.needs={needs!r} is no kind of labels.{near(needs, labels.KINDS)}")
    batch = asked["batch"] or round(asked["share"] * config.batch)
    if batch < 1:
        raise UserError(
            f"{where}: share={asked['share']} of batch={config.batch} leaves nothing; give its own batch=N."
        )
    source = stand_in(asked["data"]) or _open(train, where, asked)
    seen = asked["transform"] or config.transform.to_dict()
    transform = parts.make("data.transforms", seen, size=config.image_size)
    return streams.make(name, source, transform if needs else _unlabelled(transform), batch=batch, seed=config.seed)


def _open(train: Source, where: str, asked: Mapping[str, Any]) -> Source:
    needs, split = asked["needs"], asked["split"]
    if not needs:
        return parts.make("data.formats", asked["data"], split=split, needs="")
    source = sources.open_format(asked["data"], split, needs, f"{where}.needs={needs!r}")
    if source.classes != train.classes:
        raise UserError(f"{where} has the classes {', '.join(source.classes)}, not {', '.join(train.classes)}.")
    return source


def _unlabelled(transform: Callable[..., Any]) -> Callable[..., Any]:
    """Give a transform whose examples have no labels, even where the records have."""
    made = partial(_without_labels, transform)
    made.companions = getattr(transform, "companions", 0)  # type: ignore[attr-defined]
    return made


def _without_labels(transform: Callable[..., Any], *given: Any) -> dict[str, Any]:
    return {key: value for key, value in transform(*given).items() if key not in LABELS}


def shapes(stream: Stream, mesh: Mesh, accumulate: int) -> Batch:
    """Give the shapes of a stream's part of a batch.

    Raises:
      UserError: the devices, or the parts that a batch is computed in, cannot share it evenly; or none of its images
        can be read.
    """
    sharding = shard.batch_sharding(mesh, stream.batch, f"streams.{stream.name}.batch")
    if stream.batch % (shard.ways(mesh) * accumulate):
        raise UserError(
            f"streams.{stream.name}: its batch={stream.batch} does not divide by accumulate={accumulate} on "
            f"{mesh.size} devices."
        )
    return sources.abstract_batch(stream.source, stream.transforms[-1][1], stream.batch, sharding)

"""The further streams of a config: what a batch holds besides its main data.

    streams={"unlabelled": {"data": {"name": "folder", "path": DIR}, "share": 2.0}}

The keys of one are STREAM in config/schema.py.
"""

from typing import Any

from jax.sharding import Mesh

from mapjax import stages
from mapjax.config import parts, schema
from mapjax.data import streams
from mapjax.data.source import Source
from mapjax.data.streams import Stream
from mapjax.errors import UserError, near
from mapjax.runs import networks, sources
from mapjax.sharding import mesh as shard
from mapjax.task import Batch


def make(config: Any, train: Source) -> tuple[Stream, ...]:
    """Make the further streams of a config, whose main data is `train`.

    Raises:
      UserError: a node that names no data or has an unknown key, no room in a batch, or other classes.
    """
    return tuple(_stream(config, train, name, node) for name, node in config.streams.to_dict().items())


def _stream(config: Any, train: Source, name: str, node: Any) -> Stream:
    where = f"streams.{name}"
    if name in stages.KEYS:
        raise UserError(f"{where}: a batch has a key of this name already; choose another.")
    if not isinstance(node, dict) or not node.get("data"):
        raise UserError(f"{where} must name its data, as in {{'data': {{'name': 'folder', 'path': DIR}}}}.")
    for key in node:
        if key not in schema.STREAM:
            raise UserError(f"{where} has no key {key!r}.{near(key, schema.STREAM)}")
    asked = schema.stream(node)
    batch = asked["batch"] or round(asked["share"] * config.batch)
    if batch < 1:
        raise UserError(
            f"{where}: share={asked['share']} of batch={config.batch} leaves nothing; give its own batch=N."
        )
    needs = asked["needs"] or networks.needs(config)
    source = parts.make("data.formats", asked["data"], split=asked["split"], needs=needs)
    if asked["needs"] and source.classes != train.classes:
        raise UserError(f"{where} has the classes {', '.join(source.classes)}, not {', '.join(train.classes)}.")
    seen = asked["transform"] or config.transform.to_dict()
    transform = parts.make("data.transforms", seen, size=config.image_size)
    return streams.make(name, source, transform, batch=batch, seed=config.seed)


def shapes(stream: Stream, mesh: Mesh) -> Batch:
    """Give the shapes of a stream's part of a batch.

    Raises:
      UserError: the devices cannot share it evenly, or none of its images can be read.
    """
    sharding = shard.batch_sharding(mesh, stream.batch, f"streams.{stream.name}.batch")
    return sources.abstract_batch(stream.source, stream.transforms[-1][1], stream.batch, sharding)

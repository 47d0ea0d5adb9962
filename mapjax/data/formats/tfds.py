"""TensorFlow Datasets with the features `image` and `label`, prepared as `array_record`; TensorFlow is not needed.

    --data tfds:mnist        --data tfds:path=mnist,data_dir=DIR

It is read, never downloaded: preparing a data set needs TensorFlow, on any machine, once:
`tfds build mnist --file_format=array_record --data_dir=DIR`.
"""

import contextlib
import difflib
import hashlib
import os
import pathlib
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from mapjax.data import labelled, splits
from mapjax.data.source import Source
from mapjax.errors import UserError

ABOUT = "tfds:NAME (labels)"

_CHUNK = 1024  # records read at once for their labels


class Encoded(Sequence[bytes]):
    """The encoded images of a data source of raw records, at some positions."""

    def __init__(self, records: Any, rows: np.ndarray):
        """Take the source, and the positions in it."""
        self.records, self.rows = records, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> bytes:  # pyright: ignore[reportIncompatibleMethodOverride]
        return _feature(self.records[int(self.rows[index])], "image").bytes_list.value[0]


def make(
    *,
    split: str,
    seed: int = 0,
    path: str,
    data_dir: str | None = None,
    classes: str | Sequence[str] | None = None,
    hold_out: float | int = 0.1,
) -> Source:
    """Open one split of a data set. The first time all of it is read for its labels, which are kept.

    Args:
      split: its name there; "val" is held out of "train" where there is none.
      seed: of the held-out part.
      path: the data set's name, as for `tfds.builder`: "mnist", "cifar10:3.0.2".
      data_dir: where it is prepared; by default $TFDS_DATA_DIR or ~/tensorflow_datasets.
      classes: their names in order; by default those of the data set.
      hold_out: share of each class of "train" that becomes "val"; 0 for none.

    Raises:
      UserError: no such data set or split, not prepared, stored as tfrecord, other features, or a label outside the
        list.

    Example:
      from mapjax.data.formats import tfds
      source = tfds.make(split="test", path="cifar10")
      len(source.records), source.classes
    """
    import tensorflow_datasets

    where = f"tfds:{path}"
    builder = _open(path, data_dir)
    names = labelled.class_names(_class_names(builder, where) if classes is None else classes)
    found, part = splits.locate(split, list(builder.info.splits), where, hold_out)
    raw = tensorflow_datasets.decode.DeserializeMethod.RAW_BYTES
    records = builder.as_data_source(found, deserialize_method=raw)
    labels = _labels(builder, records, found)
    if len(labels) and not 0 <= labels.min() <= labels.max() < len(names):
        wrong = labels[(labels < 0) | (labels >= len(names))]
        raise UserError(
            f"{where}: {len(wrong)} images of split {found!r} have a label outside the list of {len(names)} classes, "
            f"such as {wrong[0]}; choose a split that is labelled, or correct the list of classes."
        )
    train = splits.find("train", builder.info.splits)
    if train not in (None, found):
        trained = np.unique(_labels(builder, builder.as_data_source(train, deserialize_method=raw), train))
        labelled.require_trained([names[k] for k in np.unique(labels)], [names[k] for k in trained], where, found)
    positions = [f"{found}/{row:06d}" for row in range(len(labels))]
    rows = labelled.rows_of(part, positions, labels, seed, hold_out)
    files = [positions[row] for row in rows]
    info = builder.info.splits[found]
    content = f"{builder.info.full_name} {info.num_bytes} {info.shard_lengths}".encode()
    content = hashlib.sha256(content).digest()
    return labelled.make_source(
        where, split, names, files, labels[rows], Encoded(records, rows), dropped={}, content=content
    )


def _open(name: str, data_dir: str | None) -> Any:
    """Find a data set that is prepared, and can be read by random access.

    Raises:
      UserError: it is none of that.
    """
    import tensorflow_datasets

    mend = f"prepare it where TensorFlow is installed: tfds build {name} --file_format=array_record"
    try:
        builder = tensorflow_datasets.builder(name, data_dir=data_dir)
    except tensorflow_datasets.core.DatasetNotFoundError as error:
        known = tensorflow_datasets.list_builders(with_community_datasets=False)  # the others need a network
        close = difflib.get_close_matches(re.split("[/:]", name)[0], known, n=3, cutoff=0.5)
        hint = f" Did you mean {' or '.join(map(repr, close))}?" if close else ""
        raise UserError(
            f"tfds:{name}: TensorFlow Datasets knows no such data set, and none of that name is in "
            f"{data_dir or 'its default data_dir'}.{hint}"
        ) from error
    except (ImportError, AssertionError, ValueError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"tfds:{name} cannot be opened ({reason}); {mend}.") from error
    if not len(builder.info.splits):
        raise UserError(f"tfds:{name} is not prepared in {builder.data_path}; {mend}, or name its data_dir.")
    if not any(form.value == "array_record" for form in builder.info.available_file_formats()):
        raise UserError(
            f"tfds:{name} is stored as {builder.info.as_proto.file_format} in {builder.data_path}, which has no random "
            f"access; {mend}."
        )
    return builder


def _class_names(builder: Any, where: str) -> list[str]:
    features = builder.info.features
    for key in ("image", "label"):
        if key not in features:
            raise UserError(f"{where} has no feature {key!r}, only {', '.join(features)}; it is no data to classify.")
    if not hasattr(features["label"], "num_classes") or len(features["label"].shape or ()):
        raise UserError(f"{where}: its feature 'label' is {features['label']!r} and not one class for each image.")
    return list(features["label"].names)


def _labels(builder: Any, records: Any, split: str) -> np.ndarray:
    """Return the label of every record: read once, for that all of it must be read, and kept in a file.

    The file's name depends on the data set, its version, and the names, sizes and times of the split's shards.
    """
    key = f"{builder.info.full_name} {split} {len(records)}"
    for shard in builder.info.splits[split].filepaths:
        facts = shard.stat()
        key += f" {shard.name} {facts.length} {facts.mtime}"
    digest = hashlib.sha256(key.encode()).hexdigest()[:16]
    if digest in _read:
        return _read[digest]
    file = _cache() / f"{builder.info.name}-{split}-{digest}.npy"
    try:
        found = np.load(file, allow_pickle=False)
        if found.shape != (len(records),) or found.dtype != np.int32:
            raise ValueError
    except (OSError, ValueError, EOFError):  # not there, or no longer whole
        found = _read_labels(records)
        with contextlib.suppress(OSError):  # a home that cannot be written to costs the time once more, no more
            file.parent.mkdir(parents=True, exist_ok=True)
            partial = file.with_name(f"{file.name}.{os.getpid()}.partial")
            with partial.open("wb") as out:
                np.save(out, found)
            os.replace(partial, file)
    return _read.setdefault(digest, found)


_read: dict[str, np.ndarray] = {}  # by this process, which opens the training split for each of its splits


def _cache() -> pathlib.Path:
    """The folder of labels that were read: $MAPJAX_CACHE/labels, or ~/.cache/mapjax/labels."""
    if chosen := os.environ.get("MAPJAX_CACHE"):
        return pathlib.Path(chosen).expanduser() / "labels"
    return pathlib.Path(os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache")) / "mapjax" / "labels"


def _read_labels(records: Any) -> np.ndarray:
    found = np.zeros(len(records), np.int32)
    for start in range(0, len(records), _CHUNK):
        rows = range(start, min(start + _CHUNK, len(records)))
        for row, data in zip(rows, records.__getitems__(list(rows))):
            found[row] = _feature(data, "label").int64_list.value[0]
    return found


def _feature(data: bytes, key: str) -> Any:
    """Return a feature of a serialized record; 6 times faster than by the data set's own description."""
    from tensorflow_datasets.proto import tf_example_pb2

    example: Any = tf_example_pb2.Example  # pyright: ignore[reportAttributeAccessIssue]  # made when imported
    return example.FromString(data).features.feature[key]

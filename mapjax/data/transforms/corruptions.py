"""Other images than those that were trained on: a held-out split, but turned, noisy or of other colours.

How much a network loses on them tells how robust it is. Each image is changed as an augmentation would change it
(augment.py), but always in the same way, and its truth with it; so it is scored like any other split.
"""

import hashlib
import json
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from mapjax.data import images, labels
from mapjax.data.source import Record, Records, Source, name_of, truth_of
from mapjax.data.transforms import augment, proposed
from mapjax.data.transforms import boxes as transforms
from mapjax.errors import UserError


def shift(source: Source, changes: Mapping[str, Any]) -> Source:
    """Change all images of a source, and their labels with them.

    Args:
      changes: keys of augment.DEFAULTS; of random ones, what is drawn for an image depends on its index alone.

    Raises:
      UserError: an unknown key, or a value out of its range.
    """
    try:
        config = augment.complete(changes)
    except UserError as error:
        raise UserError(f"corruption: {error}") from error
    records = source.records
    known, sizes = (getattr(records, name, lambda: None)() for name in ("labels", "sizes"))
    at = partial(_at, source, config)
    whole = json.dumps([source.fingerprint, config], sort_keys=True)
    return source._replace(
        records=Records(
            len(records),
            at,
            known,
            names=[name_of(source, index) for index in range(len(records))],  # also of what cannot be read
            truth=partial(_truth, source, config),
            sizes=sizes,
            label_map=partial(_label_map, at) if getattr(records, "label_map", None) else None,
        ),
        fingerprint=f"shifted-{hashlib.sha256(whole.encode()).hexdigest()[:16]}",
    )


def _truth(source: Source, config: Mapping[str, Any], index: int) -> Record:
    """Give the record; of one whose image cannot be read, the truth as it is on a black image."""
    try:
        return _changed(source.records[index], config, index)
    except UserError:
        record = truth_of(source, index)
        if "size" not in record:  # a label of the whole image
            return record
        return _changed({**record, "image": np.zeros((*record["size"], 3), np.uint8)}, config, index)


def _at(source: Source, config: Mapping[str, Any], index: int) -> Record:
    return _changed(source.records[index], config, index)


def _changed(given: Record, config: Mapping[str, Any], index: int) -> Record:
    record = dict(given)
    if "size" not in record:  # of whole images with a label it is not needed before
        record["image"] = images.read(record["image"])
        record["size"] = np.array(record["image"].shape[:2], np.int32)
    size = (int(record["size"][0]), int(record["size"][1]))
    example, matrix = transforms.map_record(record, np.random.default_rng((1, index)), size, config)
    motion = labels.Motion(matrix, size)
    if labels.has(record, "boxes"):
        motion = transforms.follow(record, matrix, size, config["min_visible"])
    moved = labels.move(record, motion)
    if "proposals" in record:
        moved["proposals"] = proposed.in_view(record["proposals"], matrix, size)
    if labels.has(moved, "masks"):
        moved["areas"] = np.array([mask.sum() for mask in moved["masks"]], np.float32)
    return {**record, "image": example["image"], **moved}


def _label_map(at: Any, index: int) -> np.ndarray:
    return at(index)["label_map"]

"""The stages of the data flow, and the one table of their keys.

    Record → (transforms) → Example → (pipeline) → Batch → (predict) → Prediction → (decode) → Result

Predict calls the network, whose outputs have their keys here too. What it gives by other names are feature maps, those
of its `levels` (task.py), which a prediction holds as `features`.

One meaning per key, everywhere. Boxes are x1,y1,x2,y2 in pixels (continuous coordinates: the left edge of
the first pixel is 0, the right edge of the last is the width); classes are 0-based and never include background.
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

VOID = 255  # the class of a pixel that has none


class Key(NamedTuple):
    """A key of one or more stages: symbolic shape without batch axis, dtype, and what it means.

    An axis "_" is of any length. Of outputs there may be several, numbered: "aux1", "aux2".
    """

    stages: tuple[str, ...]
    shape: str
    dtype: str
    meaning: str


KEYS: dict[str, Key] = {
    "id": Key(("record",), "", "int", "the image's number in its data set (COCO's image id; else the position)"),
    "file": Key(("record",), "", "str", "the image's name for people: its file, relative to the data folder"),
    "image": Key(
        ("record", "example", "batch"),
        "H W 3",
        "uint8",
        "RGB image; in a record also a path or the encoded bytes",
    ),
    "size": Key(("record", "example", "batch"), "2", "int32", "height, width of the original image"),
    "stored": Key(
        ("record",), "", "bool", "the labels were drawn on the image as stored, and not upright as EXIF says"
    ),
    "boxes": Key(
        ("record", "example", "batch", "prediction", "result"),
        "M 4",
        "float32",
        "x1,y1,x2,y2 in pixels of the frame they are in: original (record, result) or network input",
    ),
    "classes": Key(("record", "example", "batch", "prediction", "result"), "M", "int32", "0-based class"),
    "label": Key(("record", "example", "batch"), "", "int32", "0-based class of the whole image"),
    "labels": Key(("record", "example", "batch"), "C", "bool", "classes of the whole image, any number of them"),
    "crowd": Key(
        ("record", "example", "batch"),
        "M",
        "bool",
        "COCO iscrowd or VOC difficult: never a positive in training; evaluation follows COCO's rule for crowds",
    ),
    "areas": Key(("record",), "M", "float32", "area of the object in original pixels² (COCO's area, else the box's)"),
    "masks": Key(
        ("record",),
        "M H W",
        "bool",
        "instance masks in the frame of `image`: a sequence of bits or run lengths (run_lengths.py)",
    ),
    "box_masks": Key(
        ("example", "batch"),
        "M _ _",
        "uint8",
        "of each cell of a grid inside an object's box, the share that its mask covers: 0 to 255",
    ),
    "masks_left_out": Key(
        ("example", "batch"), "", "int32", "how many objects are left out, as nothing of their masks is in view"
    ),
    "keypoints": Key(
        ("record", "example", "batch", "result"),
        "M K 3",
        "float32",
        "x,y in pixels of the frame they are in, and visibility: 0 not labelled, 1 labelled but hidden, 2 seen; a "
        "result's have the logit of their place",
    ),
    "mirrored": Key(("record",), "K", "int32", "the keypoint that each becomes in a mirror: left ↔ right"),
    "label_map": Key(
        ("record", "example", "batch", "result"),
        "H W",
        "uint8",
        "0-based class of each pixel, VOID (255) where it has none: in the frame of `image`; a result's in original "
        "pixels, at the top left of a frame that holds the largest image",
    ),
    "truth_map": Key(
        ("example", "batch"), "R S", "uint8", "label map in original pixels, to be scored against; VOID beside it"
    ),
    "valid": Key(("example", "batch", "prediction", "result"), "M", "bool", "real rows of a padded list"),
    "matrix": Key(
        ("example", "batch", "result"),
        "3 3",
        "float32",
        "original pixels → pixels of `image`, or the places of `map_logits`",
    ),
    "index": Key(("example", "batch"), "", "int32", "position of the record in its source"),
    "mask": Key(("batch",), "", "bool", "a real example, not padding of the last batch"),
    "objectness": Key(("output",), "R", "float32", "a score for each anchor of a first stage, before sigmoid"),
    "deltas": Key(("output",), "R 4", "float32", "the offsets of its box, as ops/boxes.py decodes"),
    "proposals": Key(
        ("record", "example", "batch", "prediction"),
        "P 4",
        "float32",
        "boxes that may hold an object, best first, in the frame they are in: from outside, or of a first stage",
    ),
    "proposals_valid": Key(("example", "batch", "prediction"), "P", "bool", "real rows of the padded proposals"),
    "region_logits": Key(("prediction",), "P E", "float32", "of each proposal a score for background, then each class"),
    "region_deltas": Key(("prediction",), "P E 4", "float32", "likewise the offsets of a box, as ops/boxes.py decodes"),
    "mask_logits": Key(("prediction",), "M _ _", "float32", "of each cell of a grid inside a box, before sigmoid"),
    "mask_scores": Key(
        ("result",),
        "M _ _",
        "float32",
        "of each cell of a grid inside a box, whether it is the object's: 0 to 1",
    ),
    "keypoint_logits": Key(("prediction",), "M _ _ K", "float32", "likewise for each keypoint, before softmax"),
    "query_logits": Key(
        ("output", "prediction"), "Q _", "float32", "of each query a score for each class, perhaps for no object last"
    ),
    "query_boxes": Key(
        ("output", "prediction"), "Q 4", "float32", "its box: centre x,y, width, height as shares of the model's frame"
    ),
    "aux_query_logits": Key(("output",), "_ Q _", "float32", "as `query_logits`, of the layers before"),
    "aux_query_boxes": Key(("output",), "_ Q 4", "float32", "as `query_boxes`, of the layers before"),
    "denoising_logits": Key(("output",), "_ _ _", "float32", "as `query_logits`, of each layer for queries of truth"),
    "denoising_boxes": Key(("output",), "_ _ 4", "float32", "as `query_boxes`, of each layer for queries of truth"),
    "site_logits": Key(
        ("output", "prediction"),
        "R _",
        "float32",
        "of each site of a dense detector a score for each class, before sigmoid; or for background, then each class, "
        "before softmax",
    ),
    "site_deltas": Key(
        ("output", "prediction"), "R 4", "float32", "likewise its box, in the task's code of ops/box_codes.py"
    ),
    "site_quality": Key(
        ("output", "prediction"), "R", "float32", "likewise how good its box is, before sigmoid (FCOS: centreness)"
    ),
    "single_logits": Key(
        ("output", "prediction"), "R C", "float32", "as `site_logits`, of a branch in which one site answers an object"
    ),
    "single_deltas": Key(("output", "prediction"), "R 4", "float32", "as `site_deltas`, of that branch"),
    "prototypes": Key(("output",), "_ _ _", "float32", "a map that masks are made of, over the frame"),
    "site_filters": Key(
        ("output",), "R _", "float32", "of each site the weights that make of it the mask of its object"
    ),
    "features": Key(
        ("output", "prediction"), "", "", "what the network shows of itself: name → maps b h w d, or vectors b d"
    ),
    "views": Key(("prediction",), "", "", "the predictions of several views of an image, by number, to be fused"),
    "pool": Key(("output",), "D", "float32", "the last features, as one vector: their mean or largest, or all of them"),
    "fc": Key(("output",), "_", "float32", "of a hidden dense layer, numbered"),
    "logits": Key(("output", "prediction"), "C", "float32", "a score for each class, before softmax or sigmoid"),
    "aux": Key(("output",), "C", "float32", "likewise, of an auxiliary head, which is trained only"),
    "aux_map_logits": Key(("output",), "_ _ C", "float32", "as `map_logits`, of an auxiliary head"),
    "unary_map_logits": Key(("output",), "I J C", "float32", "as `map_logits`, before a random field"),
    "places": Key(("output",), "_ _ _", "uint8", "where in each window of a pool the largest was, numbered"),
    "map_logits": Key(
        ("output", "prediction", "result"),
        "I J C",
        "float32",
        "a score for each class of each place on a map over the frame, before softmax",
    ),
    "probabilities": Key(("result",), "C", "float32", "of each class; they sum to 1 where one class excludes another"),
    "confusion": Key(("result",), "C C", "int32", "pixels of each true class (rows) that were given each class"),
    "contours": Key(("result",), "C 4", "int32", "contour pixels: predicted, of these right; true, of these found"),
    "scores": Key(("prediction", "result"), "M", "float32", "confidence, 0 to 1"),
}


def check(stage: str, values: Mapping[str, Any]) -> None:
    """Check keys, ranks, dtypes and shared sizes of one stage against the table; called once, at start-up.

    Args:
      stage: "record", "example", "batch", "output", "prediction" or "result".
      values: the stage; all but the first two have one more leading axis than the table shows. A further stream of a
        batch is a batch under its name.

    Raises:
      ValueError: an unknown key, a wrong rank or dtype, or two keys that disagree on a named size.
    """
    sizes: dict[str, tuple[int, str]] = {}
    batched = stage not in ("record", "example")
    for name, value in values.items():
        if stage == "batch" and name not in KEYS and isinstance(value, Mapping):
            check(stage, value)  # a further stream
            continue
        key = KEYS.get(re.sub(r"(?<=[a-z])\d+", "", name) if stage == "output" else name)
        if key is None or stage not in key.stages:
            raise ValueError(f"{stage} has a key {name!r} that the table of stages.py does not list for it")
        if name == "views":
            for view in value.values():
                check(stage, view)
        if not key.dtype or (stage == "record" and (key.dtype in ("int", "str", "uint8") or isinstance(value, list))):
            continue  # features are of any shape; a record's image may be a path or bytes, its masks run lengths
        axes = (["B"] if batched else []) + key.shape.split()
        array = value if hasattr(value, "dtype") else np.asarray(value)
        if len(array.shape) != len(axes):
            raise ValueError(f"{stage} {name!r} has shape {array.shape}, expected axes {' '.join(axes)}")
        if str(array.dtype) != key.dtype:
            raise ValueError(f"{stage} {name!r} is {array.dtype}, expected {key.dtype}")
        for axis, length in zip(axes, array.shape):
            if axis == "_":
                continue
            expected, first = (int(axis), "the table") if axis.isdigit() else sizes.setdefault(axis, (length, name))
            if length != expected:
                raise ValueError(f"{stage} {name!r} has {axis}={length}, but {first} says {expected}")

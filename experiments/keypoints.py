"""Keypoints: detectors that find an object's keypoints in its box (Keypoint R-CNN).

    mapjax train --config keypoints --data coco:DIR
        mouse (default): a few dozen pictures of one animal each, from EfficientNet-Lite0's weights; a good start for
        any small data set of your own with keypoints.

In a checkout, `python launch/main.py --config experiments/keypoints.py` is the same. A recipe says only what differs
from the defaults of mapjax/config/schema.py. docs/instance.md says more.
"""

from typing import Any


def mouse() -> dict[str, Any]:
    """One animal an image, and few images: small, often, and never twice the same."""
    moved = {"rotate": 8, "scale": (0.75, 1.25), "translate": 0.1, "brightness": 0.3, "contrast": 0.3, "noise": 8}
    proposals = {"pre_nms_train": 50, "post_nms_train": 50, "pre_nms_test": 50, "post_nms_test": 20}
    found = {"samples": 8, "positives": 0.5, "detections": 5}
    light = {"mean": (0.498,) * 3, "std": (0.502,) * 3}  # as the weights were trained
    return {
        "data": {"name": "coco", "path": "data/mouse"},
        "image_size": (192, 192),
        "transform": {"name": "boxes", "max_boxes": 4, "augment": moved},
        "batch": 8,
        "eval_batch": 15,
        "duration": "1200 steps",
        "init_from": "efficientnet_lite0",
        "model": {
            "name": "faster_rcnn",
            "backbone": {"name": "efficientnet", "variant": "lite0", "drop_path": 0.0},
            # A box as large as the image is pooled from the map of stride 8.
            "levels": (8, 16, 32),
            "channels": 128,
            "representation": 256,
            "anchor_sizes": ((48,), (96,), (160,), (192,)),
            "keypoints": 17,
            "keypoint_convs": 4,
            "keypoint_channels": 128,
        },
        "task": {"name": "two_stage", "beside": ("keypoints",), **proposals, **found, **light},
        "metrics": ("precision", "keypoint_precision", "pck"),
        "optimizer": {"name": "muon", "learning_rate": 2e-3, "momentum": 0.95},
        "ema": 0.99,
        "every": {"evaluate": "0 steps"},
    }


VARIANTS = {"mouse": mouse}


def get_config(variant: str = "mouse") -> dict[str, Any]:
    """Give the recipe of a variant."""
    return VARIANTS[variant]()

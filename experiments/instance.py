"""Instances: detectors that draw a mask in each box, in one stage (CondInst) or two (Mask R-CNN).

    mapjax train --config instance
        scenes (default): embedded digits on photos, 128×128, nothing to download, in one stage.
    mapjax train --config instance:nuclei --data coco:DIR
        nuclei: cells' nuclei at 256×256, up to hundreds an image, from random weights; a good start for any small data
        set of your own with polygons or run lengths.
    mapjax train --config instance:nuclei_copy_paste --data coco:DIR
        nuclei_copy_paste: the same with copy-paste of objects.
    mapjax train --config instance:coco --data coco:DIR
        coco: ResNet-50 at COCO size from ImageNet's weights, 26 epochs; for accelerators.

In a checkout, `python launch/main.py --config experiments/instance.py` is the same. A recipe says only what differs
from the defaults of mapjax/config/schema.py. docs/instance.md says more.
"""

from typing import Any


def scenes() -> dict[str, Any]:
    """Embedded scenes on a small YOLO with masks, for a laptop."""
    task = {
        "assignment": "task_aligned",
        "code": "distances",
        "class_loss": "bce",
        "box_loss": "ciou",
        "box_factor": 5.0,
    }
    few = {"divided_by": "quality", "score_threshold": 0.01, "suppression": 0.65, "candidates": 100, "detections": 50}
    return {
        "data": {"name": "scenes", "train_length": 20000, "val_length": 500},
        "image_size": (128, 128),
        # Little augmentation: no scene is seen twice, and they vary by themselves.
        "transform": {"name": "boxes", "max_boxes": 16, "mask_size": 28, "augment": {"brightness": 0.1}},
        "batch": 8,
        "eval_batch": 20,
        "duration": "2400 steps",
        # Strokes are 2 to 6 pixels wide, hence the stride.
        "model": {
            "name": "condinst",
            "detector": {"name": "yolo", "size": "n", "single": False},
            "stride": 2,
            "width": 32,
        },
        "task": {"name": "dense", "beside": ("masks",), "mask_samples": 16, **task, **few},
        "optimizer": {"name": "muon", "learning_rate": 2e-3, "momentum": 0.95},
        "ema": 0.998,
        "every": {"evaluate": "0 steps"},
    }


def nuclei() -> dict[str, Any]:
    """Small objects, many an image, from random weights."""
    mirrored = {"flip_horizontal": 0.5, "flip_vertical": 0.5, "scale": (0.8, 1.25), "brightness": 0.2}
    proposals = {"pre_nms_train": 500, "post_nms_train": 500, "pre_nms_test": 500, "post_nms_test": 500}
    found = {"samples": 128, "positives": 0.5, "score_threshold": 0.01, "detections": 300}
    return {
        "data": {"name": "coco", "path": "data/nuclei"},
        "image_size": (256, 256),
        "transform": {"name": "boxes", "max_boxes": 200, "mask_size": 28, "augment": mirrored},
        "batch": 4,
        "eval_batch": 4,
        "duration": "800 steps",
        "model": {
            "name": "faster_rcnn",
            "backbone": {"name": "resnet", "depth": 18, "norm": "batch"},
            "channels": 128,
            "representation": 512,
            "mask_convs": 3,
            "mask_channels": 128,
            # Nuclei are 5 to 40 pixels wide: masks of 14×14 cells are enough.
            "mask_pool": 7,
            "anchor_sizes": ((12,), (24,), (48,), (96,), (192,)),
        },
        "task": {"name": "two_stage", "beside": ("masks",), **found, **proposals},
        "optimizer": {"learning_rate": 5e-4},
        "ema": 0.99,
        "every": {"evaluate": "0 steps"},
    }


def nuclei_copy_paste() -> dict[str, Any]:
    """As `nuclei`; onto half of the images half of the objects of another are pasted."""
    pasting = {"name": "mosaic", "mosaic": 0.0, "copy_paste": 0.5}
    return nuclei() | {"transform": nuclei()["transform"] | pasting}


def coco() -> dict[str, Any]:
    """COCO for 26 epochs of 16 images, learning rate down at 16 and 22: torchvision's schedule for Mask R-CNN."""
    return {
        "dtype": "bfloat16",
        "data": {"name": "coco", "path": "data/coco"},
        "image_size": (1024, 1024),
        "transform": {
            "name": "boxes",
            "max_boxes": 100,
            "mask_size": 64,
            "augment": {"flip_horizontal": 0.5, "scale": (0.8, 1.25)},
        },
        "input": {"threads": 16, "workers": 8, "prefetch": 4},
        "batch": 16,
        "eval_batch": 16,
        "duration": "26 epochs",
        "init_from": "torchvision/resnet50.IMAGENET1K_V1",
        "model": {
            "name": "faster_rcnn",
            "backbone": {"name": "resnet", "depth": 50, "norm": "frozen"},
            "mask_convs": 4,
        },
        "task": {"name": "two_stage", "beside": ("masks",)},
        "optimizer": {"name": "sgd", "learning_rate": 0.02, "weight_decay": 1e-4},
        "schedule": {"name": "steps", "warmup": "1000 steps", "at": (16 / 26, 22 / 26)},
        "every": {"evaluate": "2 epochs", "save": "2000 steps"},
    }


VARIANTS = {"scenes": scenes, "nuclei": nuclei, "nuclei_copy_paste": nuclei_copy_paste, "coco": coco}


def get_config(variant: str = "scenes") -> dict[str, Any]:
    """Give the recipe of a variant."""
    return VARIANTS[variant]()

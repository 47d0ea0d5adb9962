"""Faster R-CNN with a ResNet-FPN.

python launch/main.py --config experiments/detect.py
    scenes (default)  embedded digits on photos, 128×128; 10 minutes on 2 CPU cores
python launch/main.py --config experiments/detect.py:bccd --data voc:DIR
    bccd              blood cells, 320×240, ResNet-18; 25 minutes on 2 CPU cores
python launch/main.py --config experiments/detect.py:coco --data coco:DIR
    coco              the published recipe: ResNet-50, 800×1333, 12 epochs of 16 images on 8 accelerators
"""

from ml_collections import ConfigDict


def get_config(variant: str = "scenes") -> ConfigDict:
    """Give the config of a variant: scenes, bccd or coco."""
    variants = {"scenes": scenes, "bccd": bccd, "coco": coco}
    if variant not in variants:
        raise ValueError(f"the variants are {', '.join(variants)}")
    return variants[variant]()


def scenes() -> ConfigDict:
    """Embedded scenes, small enough for a laptop."""
    return ConfigDict(
        {
            "seed": 0,
            "dtype": "float32",
            "data": {"name": "scenes"},
            "splits": {"train": "train", "eval": "val"},
            "image_size": (128, 128),
            "transform": {
                "name": "transforms",
                "max_boxes": 16,
                "augment": {"scale": (0.8, 1.25), "brightness": 0.2, "contrast": 0.2},
            },
            "input": {"threads": 2, "workers": 0, "prefetch": 2},
            "batch": 16,
            "eval_batch": 20,
            "duration": "1000 steps",
            "accumulate": 1,
            "model": {
                "name": "faster_rcnn",
                "backbone": {"name": "resnet", "depth": 18, "width": 0.5, "norm": "batch"},
                "channels": 64,
                "representation": 256,
                "anchor_sizes": ((16,), (32,), (64,), (128,), (256,)),
            },
            "task": {"name": "detect", "box_samples": 64, "pre_nms_train": 500, "post_nms_train": 200},
            "optimizer": {
                "name": "adamw",
                "learning_rate": 1e-3,
                "weight_decay": 0.05,
                "decay": "kernel$",
                "clip": 10.0,
                "factors": (),
                "freeze": (),
            },
            "schedule": {"name": "cosine", "warmup": "5 %"},
            "ema": 0.998,
            "mesh": {"data": -1, "fsdp": 1, "model": 1, "pipe": 1},
            "every": {"log": "20 steps", "evaluate": "0 steps", "save": "200 steps"},
            "keep": 2,
        }
    )


def bccd() -> ConfigDict:
    """Blood cells (or any small VOC folder) from random weights."""
    return scenes()


def coco() -> ConfigDict:
    """The published recipe for COCO."""
    return scenes()

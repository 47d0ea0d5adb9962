"""Detectors: Faster R-CNN with a ResNet-FPN, RetinaNet, FCOS, SSD, YOLO.

    mapjax train --config detect
        scenes (default): embedded digits on photos, 128×128, nothing to download.
    mapjax train --config detect:bccd --data voc:DIR
        bccd: blood cells at 320×240 from random weights; a good start for any small data set of your own.
    mapjax train --config detect:bccd_cascade --data voc:DIR
        bccd_cascade: the same cells with Cascade R-CNN, three box heads of rising IoU.
    mapjax train --config detect:bccd_rtdetr --data voc:DIR
        bccd_rtdetr: the same cells with a small RT-DETR, which needs no suppression.
    mapjax train --config detect:bccd_retinanet --data voc:DIR
        bccd_retinanet, bccd_fcos, bccd_ssd, bccd_yolo: the same data with a dense detector.
    mapjax train --config detect:bccd_yolox --data voc:DIR
        bccd_yolox: the same data from YOLOX-Nano's weights of COCO.
    mapjax train --config detect:coco --data coco:DIR
        coco: ResNet-50 at COCO size from ImageNet's weights, 12 epochs; for accelerators.
    mapjax train --config detect:coco_2x --data coco:DIR
        coco_2x: the same for 26 epochs, as torchvision trains it.
    mapjax train --config detect:coco_yolo --data coco:DIR
        coco_yolo: a YOLO at COCO size from random weights; for accelerators.
    mapjax train --config detect:coco_retinanet --data coco:DIR
        coco_retinanet, coco_rtdetr: the papers' schedules at 640×640, from ImageNet's weights; for accelerators.

In a checkout, `python launch/main.py --config experiments/detect.py:bccd` is the same. A recipe says only what differs
from the defaults of mapjax/config/schema.py. What each takes and reaches: docs/results.md.
"""

from typing import Any


def scenes() -> dict[str, Any]:
    """Embedded scenes on a small network, for a laptop."""
    small = {"pre_nms_train": 300, "post_nms_train": 200, "pre_nms_test": 300, "post_nms_test": 200, "samples": 64}
    return {
        "data": {"name": "scenes", "train_length": 20000, "val_length": 500},
        "image_size": (128, 128),
        # Little augmentation: no scene is seen twice, and they vary by themselves.
        "transform": {"name": "boxes", "max_boxes": 16, "augment": {"brightness": 0.1}},
        "batch": 8,
        "eval_batch": 20,
        "duration": "1700 steps",
        "model": {
            "name": "faster_rcnn",
            "backbone": {"name": "resnet", "depth": 18, "width": 0.5, "norm": "batch"},
            "channels": 64,
            "representation": 256,
            "anchor_sizes": ((16,), (32,), (64,), (128,), (256,)),
        },
        # Average precision gains from many weak detections, hence the low threshold.
        "task": {"name": "two_stage", "positives": 0.5, "score_threshold": 0.01, **small},
        "optimizer": {"name": "muon", "learning_rate": 2e-3, "momentum": 0.95},
        "ema": 0.998,
        "every": {"evaluate": "0 steps"},
    }


def bccd() -> dict[str, Any]:
    """Small data sets of photos, from random weights."""
    proposals = {"pre_nms_train": 1000, "post_nms_train": 1000, "pre_nms_test": 500, "post_nms_test": 500}
    mirrored = {"flip_horizontal": 0.5, "flip_vertical": 0.5, "brightness": 0.2}
    return scenes() | {
        "data": {"name": "voc", "path": "data/bccd"},
        # The first pair that the data has; names given by --config.splits.train and .eval replace them.
        "splits": {"train": ("trainval", "train"), "eval": ("test", "val")},
        "image_size": (240, 320),
        "transform": {"name": "boxes", "max_boxes": 64, "augment": mirrored},
        "batch": 4,
        "eval_batch": 4,
        "duration": "880 steps",
        "model": {
            "name": "faster_rcnn",
            "backbone": {"name": "resnet", "depth": 18, "norm": "batch"},
            "channels": 128,
            "representation": 512,
            "anchor_sizes": ((16,), (32,), (64,), (128,), (256,)),
        },
        "task": {"name": "two_stage", "samples": 256, "positives": 0.5, "score_threshold": 0.01, **proposals},
        "optimizer": {"learning_rate": 5e-4},
    }


def bccd_cascade() -> dict[str, Any]:
    """As `bccd`, with Cascade R-CNN."""
    base = bccd()
    return base | {"model": base["model"] | {"cascade": 2}, "task": base["task"] | {"cascade_iou": (0.6, 0.7)}}


def bccd_rtdetr() -> dict[str, Any]:
    """Blood cells with a small RT-DETR on half of a ResNet-18, from random weights."""
    small = {"width": 128, "encoder_width": 128, "encoder_hidden": 256, "hidden": 256, "expansion": 0.5, "decoder": 3}
    backbone = {"name": "resnet", "depth": 18, "width": 0.5, "stem": "deep", "shortcut": "pool", "norm": "batch"}
    return bccd() | {
        "image_size": (256, 320),
        "duration": "2400 steps",
        "model": {"name": "rt_detr", "backbone": backbone, "queries": 100, **small},
        "task": {"name": "set_prediction", "scores": "matchability", "denoising": 50, "score_threshold": 0.01},
        "optimizer": {"name": "muon", "weight_decay": 1e-4, "clip": 0.1},
        "ema": 0.998,
    }


def _dense(model: dict[str, Any], task: dict[str, Any]) -> dict[str, Any]:
    """Give `bccd` with a dense detector on the same backbone, and boxes learned by their overlap."""
    backbone = {"name": "resnet", "depth": 18, "norm": "batch"}
    usual = {"name": "dense", "box_loss": "giou", "divided_by": "batch", "score_threshold": 0.01}
    return bccd() | {
        "duration": "1600 steps",
        "model": {"backbone": backbone} | model,
        "task": usual | {"candidates": 300, "detections": 100} | task,
        "optimizer": {"name": "muon"},
    }


def bccd_retinanet() -> dict[str, Any]:
    """Small data sets of photos, from random weights: RetinaNet."""
    # Anchors of one and a half octaves from 16 pixels on, for cells that are small at this size.
    sizes = tuple((2 * stride, int(2.8 * stride)) for stride in (8, 16, 32, 64, 128))
    model = {"name": "retinanet", "channels": 128, "depth": 2, "norm": "group", "anchor_sizes": sizes}
    return _dense(model, {"assignment": {"name": "iou", "high": 0.5, "low": 0.4}, "suppression": 0.6})


def bccd_fcos() -> dict[str, Any]:
    """Small data sets of photos, from random weights: FCOS."""
    model = {"name": "fcos", "channels": 128, "depth": 2}
    return _dense(model, {"assignment": "centre", "code": "distances", "quality": "centreness", "suppression": 0.65})


def bccd_ssd() -> dict[str, Any]:
    """Small data sets of photos, from random weights: SSD."""
    scales = (0.08, 0.16, 0.3, 0.5, 0.75, 1.0)  # of the image's sides: platelets, red and white cells
    model = {"name": "ssd", "extras": (256, 128), "ratios": ((1.5, 2),) * 5, "scales": scales}
    task = {"assignment": "best_iou", "class_loss": "softmax", "candidates_of": "class", "suppression": 0.45}
    task |= {"code": {"name": "offsets", "weights": (10, 10, 5, 5)}, "candidates": 200}
    return _dense(model, task) | {"duration": "1300 steps", "optimizer": {"learning_rate": 5e-4}}


def coco() -> dict[str, Any]:
    """COCO for 12 epochs of 16 images (1x), learning rate down at 8 and 11, from a classifier of ImageNet.

    As torchvision trains its detectors, but for: a scale that varies, clipped gradients, no decay of biases, and a
    first stage that learns too.
    """
    return {
        "dtype": "bfloat16",
        "data": {"name": "coco", "path": "data/coco"},
        "image_size": (1024, 1024),
        "transform": {"name": "boxes", "max_boxes": 100, "augment": {"flip_horizontal": 0.5, "scale": (0.8, 1.25)}},
        "input": {"threads": 16, "workers": 8, "prefetch": 4},
        "batch": 16,
        "eval_batch": 16,
        "duration": "12 epochs",
        "init_from": "torchvision/resnet50.IMAGENET1K_V1",
        "model": {"name": "faster_rcnn", "backbone": {"name": "resnet", "depth": 50, "norm": "frozen"}},
        "task": {"name": "two_stage"},
        "optimizer": {"name": "sgd", "learning_rate": 0.02, "weight_decay": 1e-4},
        "schedule": {"name": "steps", "warmup": "1000 steps", "at": (8 / 12, 11 / 12)},
        "every": {"evaluate": "2 epochs", "save": "2000 steps"},
    }


def coco_2x() -> dict[str, Any]:
    """COCO for 26 epochs, learning rate down at 16 and 22: torchvision's schedule."""
    return coco() | {
        "duration": "26 epochs",
        "schedule": {"name": "steps", "warmup": "1000 steps", "at": (16 / 26, 22 / 26)},
    }


YOLO_TASK = {  # of our own YOLO: Feng et al. 2021 (assignment), Wang et al. 2024 (the second branch)
    "name": "dense",
    "assignment": "task_aligned",
    "single": {"name": "task_aligned", "count": 1},
    "code": "distances",
    "class_loss": "bce",
    "box_loss": "ciou",
    "box_factor": 5.0,
    "divided_by": "quality",
    "score_threshold": 0.01,
    "suppression": 0.65,
}


def bccd_yolo() -> dict[str, Any]:
    """As `bccd`, with a small YOLO."""
    return bccd() | {
        "model": {"name": "yolo", "size": "n"},
        "task": YOLO_TASK,
        "batch": 8,
        "duration": "1500 steps",
        "optimizer": {"name": "muon", "learning_rate": 2e-3, "momentum": 0.95},
    }


def bccd_yolox() -> dict[str, Any]:
    """As `bccd`, from YOLOX-Nano's weights of COCO."""
    from mapjax.weights.recipes import YOLOX_TASK  # with JAX, which a start without this recipe does not load

    grey = (114, 114, 114)
    return bccd() | {
        "image_size": (320, 416),
        "transform": {**bccd()["transform"], "fill": grey},
        "init_from": "yolox_nano",
        # Its normalization was folded into the convolutions: statistics of a batch would undo that.
        "model": {"name": "yolox", "size": "nano", "norm": "frozen"},
        "task": YOLOX_TASK,
        "batch": 8,
        "duration": "600 steps",
        "optimizer": {},
    }


def coco_yolo() -> dict[str, Any]:
    """COCO for 300 epochs of 64 images at 640×640, with a YOLO from random weights; the schedule of YOLOX."""
    base = coco()
    del base["init_from"]
    return base | {
        "image_size": (640, 640),
        "transform": {"name": "boxes", "max_boxes": 100, "augment": {"flip_horizontal": 0.5, "scale": (0.5, 1.5)}},
        "batch": 64,
        "eval_batch": 64,
        "duration": "300 epochs",
        "model": {"name": "yolo", "size": "s"},
        "task": YOLO_TASK,
        "optimizer": {"name": "sgd", "learning_rate": 0.01, "weight_decay": 5e-4},
        "schedule": {"warmup": "5 epochs", "final": 0.05},
        "ema": 0.9999,
        "every": {"evaluate": "10 epochs", "save": "2000 steps"},
    }


def coco_retinanet() -> dict[str, Any]:
    """As `coco` at 640×640, with a RetinaNet; rate, batch and boxes' loss of Lin et al. 2017 (section 5.1)."""
    return coco() | {
        "image_size": (640, 640),
        "model": {"name": "retinanet", "backbone": {"name": "resnet", "depth": 50, "norm": "frozen"}},
        "task": {"name": "dense", "box_loss": "smooth_l1"},
        "optimizer": {"name": "sgd", "learning_rate": 0.01, "weight_decay": 1e-4},
    }


def coco_rtdetr() -> dict[str, Any]:
    """COCO for 72 epochs of 16 images, with an RT-DETR; sizes and rates of Zhao et al. 2023, a plain ResNet-50."""
    cropped = {"flip_horizontal": 0.5, "iou_crop": 0.8, "brightness": 0.2}
    return coco() | {
        "image_size": (640, 640),
        "multi_scale": ((480, 480), (576, 576), (640, 640), (704, 704), (800, 800)),
        "calm_last": 2 / 72,
        "transform": {"name": "boxes", "max_boxes": 100, "augment": cropped},
        "duration": "72 epochs",
        "model": {"name": "rt_detr", "backbone": {"name": "resnet", "depth": 50, "norm": "frozen"}},
        "task": {"name": "set_prediction", "scores": "varifocal", "denoising": 100},
        "optimizer": {
            "learning_rate": 1e-4,
            "weight_decay": 1e-4,
            "clip": 0.1,
            "lr_multipliers": (("^backbone/", 0.1),),
        },
        "schedule": {"name": "constant", "warmup": "2000 steps"},
        "ema": 0.9999,
    }


VARIANTS = {
    "scenes": scenes,
    "bccd": bccd,
    "bccd_cascade": bccd_cascade,
    "bccd_retinanet": bccd_retinanet,
    "bccd_fcos": bccd_fcos,
    "bccd_ssd": bccd_ssd,
    "bccd_yolo": bccd_yolo,
    "bccd_yolox": bccd_yolox,
    "bccd_rtdetr": bccd_rtdetr,
    "coco": coco,
    "coco_2x": coco_2x,
    "coco_yolo": coco_yolo,
    "coco_retinanet": coco_retinanet,
    "coco_rtdetr": coco_rtdetr,
}


def get_config(variant: str = "scenes") -> dict[str, Any]:
    """Give the recipe of a variant."""
    return VARIANTS[variant]()

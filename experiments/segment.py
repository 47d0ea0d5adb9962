"""Semantic segmentation: an image becomes a class for every pixel.

    mapjax train --config segment
        scenes (default): background and ten digits in the embedded scenes, nothing to download; figure and ground.
    mapjax train --config segment:camvid --data masks:DIR
        camvid: a U-Net on street scenes or your own images and masks, from random weights.
    mapjax train --config segment:camvid_segnet --data masks:DIR
        camvid_segnet: SegNet on the same.
    mapjax train --config segment:finetune --data masks:DIR
        finetune: a U-Net on an EfficientNet-Lite0 with published weights; the one to take for your own masks.
    mapjax train --config segment:camvid_crf --data masks:DIR --init_from WORKDIR
        camvid_crf: a CRF as the last layer of a trained U-Net, learned end to end.
    mapjax train --config segment:voc --data voc:DIR
        voc: DeepLabV3 on a ResNet-50 with torchvision's optimizer and losses; for accelerators.

In a checkout, `python launch/main.py --config experiments/segment.py:camvid` is the same. A recipe says only what
differs from the defaults of mapjax/config/schema.py. What each takes and reaches: docs/results.md.
"""

from typing import Any

COLOURS = {"brightness": 0.2, "contrast": 0.2, "saturation": 0.2}


def scenes() -> dict[str, Any]:
    """Embedded scenes, in training with more digits each, for a laptop."""
    backbone = {"name": "resnet", "depth": 18, "width": 0.5, "stages": 2}
    return {
        "data": {"name": "scenes", "train_digits": (3, 12), "train_length": 20000, "val_length": 500},
        "image_size": (128, 128),
        # No augmentation: no scene is seen twice, and they vary by themselves.
        "transform": {"name": "pixelwise", "fit": "letterbox", "augment": {}},
        "batch": 4,
        "eval_batch": 20,
        "duration": "3300 steps",
        "model": {"name": "figure_ground", "width": 8, "backbone": backbone},
        "task": {
            "name": "segment",
            "losses": {"cross_entropy": 1.0, "dice": 1.0},
            "auxiliary": 16.0,  # of the scenes' pixels 8 % are figure, of those in training 15 %
            "auxiliary_losses": {"cross_entropy": 1.0},
            "scales": (0.8, 1.0, 1.25),
        },
        "optimizer": {"name": "muon", "learning_rate": 4e-3, "momentum": 0.95},
        "schedule": {"warmup": "2 %"},
        "ema": 0.998,
        "every": {"log": "200 steps", "evaluate": "0 steps", "save": "1000 steps"},
    }


def camvid() -> dict[str, Any]:
    """Street scenes from random weights: a U-Net on half a ResNet-18, at two thirds of CamVid's sides."""
    return {
        "data": {"name": "masks", "path": "data/camvid", "void": "unlisted"},
        "image_size": (240, 320),
        "transform": {
            "name": "pixelwise",
            "fit": "letterbox",
            "augment": {"flip_horizontal": 0.5, "scale": (0.8, 1.3), "translate": 0.1, **COLOURS},
        },
        "batch": 8,
        "eval_batch": 8,
        "duration": "1350 steps",
        "model": {"name": "unet", "width": 8, "backbone": {"name": "resnet", "depth": 18, "width": 0.5}},
        "task": {"name": "segment", "losses": {"cross_entropy": 1.0, "dice": 1.0}, "flip": True},
        "optimizer": {"name": "muon", "learning_rate": 4e-3, "momentum": 0.95},
        "ema": 0.99,
        "every": {"evaluate": "900 steps"},
    }


def camvid_segnet() -> dict[str, Any]:
    """SegNet on a quarter of VGG-16's channels, at half the size of CamVid's images."""
    return camvid() | {
        "image_size": (180, 240),
        "duration": "1300 steps",
        "model": {"name": "segnet", "encoder": "vgg16", "width": 0.25},
    }


def camvid_crf() -> dict[str, Any]:
    """A trained U-Net with a CRF on top, learned together: the network at a tenth of its rate, the CRF faster."""
    return camvid() | {
        "batch": 4,
        "duration": "100 steps",
        "model": {"name": "crf_rnn", "unary": camvid()["model"]},
        "optimizer": {"learning_rate": 2e-4, "lr_multipliers": (("^crf/", 50.0), ("^unary/head", 10.0))},
        "ema": 0.95,
        "every": {"log": "10 steps", "evaluate": "0 steps", "save": "50 steps"},
    }


def finetune() -> dict[str, Any]:
    """Your own masks from published weights: a U-Net on EfficientNet-Lite0."""
    return camvid() | {
        "data": {"name": "masks", "path": "data/masks"},
        "image_size": (300, 400),
        "transform": {
            "name": "pixelwise",
            "fit": "letterbox",
            "augment": {"flip_horizontal": 0.5, "scale": (0.9, 1.5), "translate": 0.1, **COLOURS},
        },
        "duration": "450 steps",
        "init_from": "efficientnet_lite0",
        "model": {"name": "unet", "backbone": {"name": "efficientnet", "variant": "lite0"}},
        "task": {
            "name": "segment",
            "weighting": "sqrt",
            "losses": {"cross_entropy": 1.0, "dice": 0.5},
            "flip": True,
            "mean": (0.498,) * 3,
            "std": (0.502,) * 3,
        },
        # The head is of few channels, so that its weights have far to go.
        "optimizer": {"name": "muon", "learning_rate": 2e-3, "momentum": 0.95, "lr_multipliers": (("^head", 5.0),)},
    }


def voc() -> dict[str, Any]:
    """Pascal VOC on accelerators: DeepLabV3 on a ResNet-50 of output stride 8, with an auxiliary head."""
    backbone = {"name": "resnet", "depth": 50, "output_stride": 8}
    augment = {"flip_horizontal": 0.5, "scale": (0.7, 2.8), "translate": 0.4}
    heads = {"lr_multipliers": (("aux", 10.0),)}
    return {
        "dtype": "bfloat16",
        "data": {"name": "voc", "path": "data/VOC2012"},
        "image_size": (480, 480),
        "eval_size": (694, 694),  # as large as with a shorter side of 520
        "transform": {"name": "pixelwise", "fit": "letterbox", "augment": augment},
        "input": {"threads": 16, "workers": 8, "prefetch": 4},
        "eval_batch": 8,
        "duration": "30 epochs",
        "init_from": "torchvision/resnet50.IMAGENET1K_V1",
        "model": {"name": "deeplab", "backbone": backbone, "aux": True},
        "task": {"name": "segment", "losses": {"cross_entropy": 1.0}, "auxiliary": 0.5},
        "optimizer": {"name": "sgd", "learning_rate": 0.02, "weight_decay": 1e-4, "clip": 0.0, **heads},
        "schedule": {"name": "polynomial", "warmup": "0 steps"},
        "every": {"evaluate": "5 epochs", "save": "1000 steps"},
    }


VARIANTS = {made.__name__: made for made in (scenes, camvid, camvid_segnet, camvid_crf, finetune, voc)}


def get_config(variant: str = "scenes") -> dict[str, Any]:
    """Give the recipe of a variant."""
    return VARIANTS[variant]()

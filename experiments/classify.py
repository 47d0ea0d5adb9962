"""Classification: an image becomes a label, or several.

    mapjax train --config classify
        digits (default): scikit-learn's 1,797 handwritten digits, nothing to download.
    mapjax train --config classify:cifar10 --data folder:cifar10.zip
        cifar10: CifarNet for images of 32×32, with one cycle of the learning rate.
    mapjax train --config classify:fashion
        fashion: the same for the grey images of 28×28 of Fashion-MNIST, where Debian's dataset-fashion-mnist puts it,
        or with --config.data.path=DIR. For others, such as MNIST, --data idx:DIR: the classes are then those of
        DIR/classes.txt, or else the labels. What must not be mirrored, as digits, needs also
        --config.transform.augment.flip_horizontal=0 --config.task.views=one
    mapjax train --config classify:finetune --data folder:DIR
        finetune: EfficientNet-Lite0 from published weights; for your own images.
    mapjax train --config classify:cifar10_finetune --data folder:FILE.zip
        cifar10_finetune: the same network on CIFAR's small images, enlarged to 80×80.
    mapjax train --config classify:imagenet --data folder:DIR
        imagenet: ResNet-50 for 90 epochs (Goyal et al. 2017); for accelerators.
    mapjax train --config classify:imagenet_modern --data folder:DIR
        imagenet_modern: ResNet-50 with the A2 recipe of Wightman et al. 2021, 300 epochs.
    mapjax train --config classify:vit_large --data folder:DIR
        vit_large: ViT-L/16 from random weights with the recipe of He et al. 2021, 200 epochs; for a pod.

In a checkout, `python launch/main.py --config experiments/classify.py:cifar10` is the same. A recipe says only what
differs from the defaults of mapjax/config/schema.py. What each takes and reaches: docs/results.md.
"""

from typing import Any

CLOTHES = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")


def digits() -> dict[str, Any]:
    """Embedded digits of 8×8 pixels on a tiny network, for a laptop."""
    return {
        "data": {"name": "digits"},
        "image_size": (8, 8),
        "transform": {
            "name": "crops",
            "fit": "stretch",
            "augment": {"rotate": 12.0, "translate": 0.1, "scale": (0.9, 1.1), "shear": 8.0},
        },
        "batch": 64,
        "eval_batch": 200,
        "duration": "60 epochs",
        "model": {"name": "tiny"},
        "task": {"name": "classify", "label_smoothing": 0.05, "mean": (0.3,) * 3, "std": (0.37,) * 3},
        "optimizer": {"learning_rate": 4e-3},
        "schedule": {"warmup": "10 %"},
        "ema": 0.99,
        "every": {"evaluate": "0 steps"},
    }


def cifar10() -> dict[str, Any]:
    """CIFAR-10 from random weights: CifarNet (Jordan 2024) with one cycle of the learning rate."""
    mean, std = (0.491, 0.482, 0.447), (0.247, 0.243, 0.262)
    momentum = {"name": "sgd", "momentum": 0.85, "nesterov": True, "lr_multipliers": (("norm./bias$", 16.0),)}
    return {
        "data": {"name": "folder", "path": "data/cifar10.zip"},
        "splits": {"eval": "test"},
        "image_size": (32, 32),
        "transform": {"name": "crops", "fit": "stretch", "augment": {"pad_crop": 2, "flip_horizontal": 0.5}},
        "batch": 256,
        "eval_batch": 250,
        "duration": "7 epochs",  # 24 minutes on 2 cores
        "model": {"name": "cifarnet"},
        "task": {"name": "classify", "label_smoothing": 0.2, "views": "flip", "mean": mean, "std": std},
        "optimizer": {"learning_rate": 0.4, "weight_decay": 1e-3, "clip": 0.0, **momentum},
        "schedule": {"name": "linear", "warmup": "20 %"},
        "ema": 0.98,
        "every": {"evaluate": "3 epochs", "save": "3 epochs"},
    }


def fashion() -> dict[str, Any]:
    """Fashion-MNIST: CIFAR's recipe at 28×28."""
    mean, std = (0.286,) * 3, (0.353,) * 3
    return cifar10() | {
        "data": {"name": "idx", "path": "/usr/share/datasets/fashion-mnist", "classes": CLOTHES},
        "image_size": (28, 28),
        "duration": "5 epochs",
        "model": {"name": "cifarnet", "widths": (64, 128, 128)},
        "task": {"name": "classify", "label_smoothing": 0.2, "views": "flip", "mean": mean, "std": std},
        "every": {"evaluate": "2 epochs", "save": "3 epochs"},
    }


def finetune() -> dict[str, Any]:
    """Your own images, from published weights: EfficientNet-Lite0, the body at a third of the head's rate."""
    colours = {"brightness": 0.2, "contrast": 0.2}
    return {
        "data": {"name": "folder", "path": "data/images"},
        "transform": {
            "name": "crops",
            "fit": "crop",
            "augment": {"random_resized_crop": (0.35, 1.0), "flip_horizontal": 0.5, **colours},
        },
        "eval_batch": 50,
        "init_from": "efficientnet_lite0",
        "model": {"name": "efficientnet", "variant": "lite0"},
        "task": {"name": "classify", "label_smoothing": 0.1, "mean": (0.498,) * 3, "std": (0.502,) * 3},
        # The head begins anew, and moves faster.
        "optimizer": {"lr_multipliers": (("^(fc|classifier|heads?)/", 3.0),)},
        "schedule": {"warmup": "10 %"},
        "ema": 0.998,
        "every": {"evaluate": "1 epochs", "save": "1 epochs"},
    }


def cifar10_finetune() -> dict[str, Any]:
    """CIFAR-10 from published weights: EfficientNet-Lite0 on images enlarged to 80×80."""
    mean, std = (0.498,) * 3, (0.502,) * 3
    return finetune() | {
        "data": {"name": "folder", "path": "data/cifar10.zip"},
        "splits": {"eval": "test"},
        "image_size": (80, 80),
        "transform": {
            "name": "crops",
            "fit": "crop",
            "augment": {"random_resized_crop": (0.7, 1.0), "flip_horizontal": 0.5},
        },
        "batch": 64,
        "eval_batch": 250,
        "duration": "3.6 epochs",  # 23 minutes on 2 cores
        "model": {"name": "efficientnet", "variant": "lite0", "drop_path": 0.0},
        "task": {"name": "classify", "label_smoothing": 0.1, "views": "flip", "mean": mean, "std": std},
        "optimizer": {"lr_multipliers": (("^classifier", 3.0),)},  # the only part that begins anew
        "schedule": {"warmup": "3 %"},
        "every": {"evaluate": "1.8 epochs"},
    }


def imagenet() -> dict[str, Any]:
    """ImageNet as published in 2017: SGD, 90 epochs of 256 images, learning rate down at 30, 60 and 80."""
    return {
        "dtype": "bfloat16",
        "data": {"name": "folder", "path": "data/imagenet"},
        "transform": {
            "name": "crops",
            "fit": "crop",
            "augment": {"random_resized_crop": (0.08, 1.0), "flip_horizontal": 0.5},
        },
        "input": {"threads": 16, "workers": 8, "prefetch": 4},
        "batch": 256,
        "eval_batch": 250,
        "duration": "90 epochs",
        "model": {"name": "resnet", "depth": 50, "zero_init": True},
        "task": {"name": "classify", "label_smoothing": 0.1},
        "optimizer": {"name": "sgd", "learning_rate": 0.1, "weight_decay": 1e-4, "clip": 0.0},
        "schedule": {"name": "steps", "warmup": "5 epochs", "at": (30 / 90, 60 / 90, 80 / 90)},
        "every": {"log": "100 steps", "evaluate": "5 epochs", "save": "2000 steps"},
    }


def imagenet_modern() -> dict[str, Any]:
    """ImageNet with the A2 recipe: binary cross-entropy, RandAugment, Mixup, CutMix; tested at 288 pixels.

    Not the paper's: AdamW at 3e-3, its gradients clipped, in place of LAMB at 5e-3; targets of mixed images are the
    shares of their classes and not 1 for each; no repeated augmentation, and no stochastic depth (0.05 there).
    """
    return imagenet() | {
        "eval_size": (288, 288),
        "transform": {
            "name": "crops",
            "fit": "crop",
            "crop_share": 0.95,
            "augment": {"random_resized_crop": (0.08, 1.0), "flip_horizontal": 0.5, "rand_augment": (2, 7)},
        },
        "batch": 2048,
        "duration": "300 epochs",
        "task": {"name": "classify", "loss": "sigmoid", "mixup": 0.1, "cutmix": 1.0},
        "optimizer": {"learning_rate": 3e-3, "weight_decay": 0.02, "clip": 1.0},
        "schedule": {"warmup": "5 epochs"},
    }


def vit_large() -> dict[str, Any]:
    """ViT-L/16 on ImageNet from random weights, as He et al. 2021 (Masked Autoencoders) train their baseline.

    Not the paper's: gradients are clipped. Layers are stacked, so that a mesh may have `pipe`.
    """
    stacked = {"stacked": True, "micro_batches": 8, "remat": "dots"}  # micro-batches with `pipe` only
    return imagenet() | {
        "transform": {
            "name": "crops",
            "fit": "crop",
            "augment": {"random_resized_crop": (0.08, 1.0), "flip_horizontal": 0.5, "rand_augment": (2, 9)},
        },
        "batch": 4096,
        "eval_batch": 1024,
        "duration": "200 epochs",
        "model": {"name": "vit", "variant": "large", "patch": 16, "stochastic_depth": 0.2, **stacked},
        "task": {"name": "classify", "label_smoothing": 0.1, "mixup": 0.8, "cutmix": 1.0},
        # The learning rate is 1e-4 for 256 images.
        "optimizer": {"learning_rate": 1.6e-3, "weight_decay": 0.3, "b2": 0.95, "clip": 1.0},
        "schedule": {"warmup": "20 epochs"},
        "ema": 0.9999,
    }


VARIANTS = {
    made.__name__: made
    for made in (digits, cifar10, fashion, finetune, cifar10_finetune, imagenet, imagenet_modern, vit_large)
}


def get_config(variant: str = "digits") -> dict[str, Any]:
    """Give the recipe of a variant."""
    return VARIANTS[variant]()

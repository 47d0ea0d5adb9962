"""Classification: an image becomes a label, or several.

    python launch/main.py --config experiments/classify.py
        digits (default): scikit-learn's 1,797 handwritten digits, nothing to download.
    python launch/main.py --config experiments/classify.py:cifar10 --data folder:cifar10.zip
        cifar10: CifarNet for images of 32×32, with one cycle of the learning rate.
    python launch/main.py --config experiments/classify.py:fashion
        fashion: the same for the grey images of 28×28 of Fashion-MNIST, where Debian's dataset-fashion-mnist puts it,
        or with --config.data.path=DIR. For others, such as MNIST, --data idx:DIR: the classes are then those of
        DIR/classes.txt, or else the labels. What must not be mirrored, as digits, needs also
        --config.transform.augment.flip_horizontal=0 --config.task.views=one
    python launch/main.py --config experiments/classify.py:finetune --data folder:DIR --init_from WEIGHTS
        finetune: EfficientNet-Lite0 from published weights; for your own images.
    python launch/main.py --config experiments/classify.py:cifar10_finetune --data folder:FILE.zip --init_from WEIGHTS
        cifar10_finetune: the same network on CIFAR's small images, enlarged to 80×80.
    python launch/main.py --config experiments/classify.py:imagenet --data folder:DIR
        imagenet: ResNet-50 for 90 epochs (Goyal et al. 2017); for accelerators.
    python launch/main.py --config experiments/classify.py:imagenet_modern --data folder:DIR
        imagenet_modern: ResNet-50 with the A2 recipe of Wightman et al. 2021, 300 epochs.
    python launch/main.py --config experiments/classify.py:vit_large --data folder:DIR
        vit_large: ViT-L/16 from random weights with the recipe of He et al. 2021, 200 epochs; for a pod.

What each takes and reaches stands in the README's table.
"""

from ml_collections import ConfigDict

CLOTHES = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")


def get_config(variant: str = "digits") -> ConfigDict:
    """Give the config of a variant."""
    variants = {
        "digits": digits,
        "cifar10": cifar10,
        "fashion": fashion,
        "finetune": finetune,
        "cifar10_finetune": cifar10_finetune,
        "imagenet": imagenet,
        "imagenet_modern": imagenet_modern,
        "vit_large": vit_large,
    }
    if variant not in variants:
        raise ValueError(f"the variants are {', '.join(variants)}")
    return variants[variant]()


def digits() -> ConfigDict:
    """Embedded digits of 8×8 pixels on a tiny network, for a laptop."""
    return ConfigDict(
        {
            "seed": 0,
            "dtype": "float32",  # of the network's arithmetic; parameters are always float32
            "data": {"name": "digits"},
            "splits": {"train": "train", "eval": "val"},
            "image_size": (8, 8),  # height, width
            "eval_size": None,  # of the images in evaluation; None is image_size
            "sizes": (),  # growing images: ((0.0, (128, 128)), (0.6, (192, 192)))
            "transform": {
                "name": "crops",
                "fit": "stretch",
                "augment": {"rotate": 12.0, "translate": 0.1, "scale": (0.9, 1.1), "shear": 8.0},
            },
            "input": {"threads": 2, "workers": 0, "prefetch": 2},
            "batch": 64,
            "accumulate": 1,
            "duration": "60 epochs",
            "sampling": "uniform",  # over, under and sqrt even out the classes
            "init_from": "",  # weights to start from: a file, a name or the folder of a run
            "model": {"name": "tiny"},
            "task": {"name": "classify", "label_smoothing": 0.05, "mean": (0.3,) * 3, "std": (0.37,) * 3},
            "optimizer": {
                "name": "adamw",
                "learning_rate": 4e-3,
                "weight_decay": 0.05,
                "decay": "kernel$",
                "clip": 10.0,
                "factors": (),
                "freeze": (),
            },
            "schedule": {"name": "cosine", "warmup": "10 %"},
            "ema": 0.99,
            "mesh": {"data": -1, "fsdp": 1, "model": 1, "pipe": 1},
            "rules": (),  # of where parameters are, in place of the network's own
            "eval_batch": 200,
            "every": {"log": "50 steps", "evaluate": "0 steps", "save": "500 steps"},
            "keep": 2,
        }
    )


def cifar10() -> ConfigDict:
    """CIFAR-10 from random weights: CifarNet (Jordan 2024) with one cycle of the learning rate."""
    config = digits()
    config.data = ConfigDict({"name": "folder", "path": "data/cifar10.zip"})
    config.splits = ConfigDict({"train": "train", "eval": "test"})
    config.image_size = (32, 32)
    config.transform.augment = ConfigDict({"pad_crop": 2, "flip_horizontal": 0.5})
    config.batch = 256
    config.eval_batch = 250
    config.duration = "7 epochs"  # 24 minutes on 2 cores
    config.model = ConfigDict({"name": "cifarnet"})
    config.task = ConfigDict(
        {
            "name": "classify",
            "label_smoothing": 0.2,
            "views": "flip",
            "mean": (0.491, 0.482, 0.447),
            "std": (0.247, 0.243, 0.262),
        }
    )
    config.optimizer = ConfigDict(
        {
            "name": "sgd",
            "learning_rate": 0.4,
            "momentum": 0.85,
            "nesterov": True,
            "weight_decay": 1e-3,
            "decay": "kernel$",
            "clip": 0.0,
            "factors": (("norm./bias$", 16.0),),
            "freeze": (),
        }
    )
    config.schedule = ConfigDict({"name": "linear", "warmup": "20 %"})
    config.ema = 0.98
    config.every = ConfigDict({"log": "50 steps", "evaluate": "3 epochs", "save": "3 epochs"})
    return config


def fashion() -> ConfigDict:
    """Fashion-MNIST: CIFAR's recipe at 28×28, with mirrored images."""
    config = cifar10()
    config.data = ConfigDict({"name": "idx", "path": "/usr/share/datasets/fashion-mnist", "classes": CLOTHES})
    config.image_size = (28, 28)
    config.transform.augment = ConfigDict({"pad_crop": 2, "flip_horizontal": 0.5})
    config.task.mean, config.task.std = (0.286,) * 3, (0.353,) * 3
    config.model.widths = (64, 128, 128)
    config.duration = "5 epochs"
    config.every.evaluate = "2 epochs"
    return config


def finetune() -> ConfigDict:
    """Your own images, from published weights: EfficientNet-Lite0, the body at a third of the head's rate."""
    config = digits()
    config.data = ConfigDict({"name": "folder", "path": "data/images"})
    config.splits = ConfigDict({"train": "train", "eval": "val"})
    config.image_size = (224, 224)
    config.transform = ConfigDict(
        {
            "name": "crops",
            "fit": "crop",
            "augment": {"random_resized_crop": (0.35, 1.0), "flip_horizontal": 0.5, "brightness": 0.2, "contrast": 0.2},
        }
    )
    config.init_from = "efficientnet_lite0"
    config.model = ConfigDict({"name": "efficientnet", "variant": "lite0"})
    config.task = ConfigDict({"name": "classify", "label_smoothing": 0.1, "mean": (0.498,) * 3, "std": (0.502,) * 3})
    config.batch = 32
    config.eval_batch = 50
    config.duration = "10 epochs"
    config.optimizer.learning_rate = 1e-3
    config.optimizer.factors = (("^(fc|classifier|heads?)/", 3.0),)  # the head begins anew, and moves faster
    config.ema = 0.998
    config.every = ConfigDict({"log": "50 steps", "evaluate": "1 epochs", "save": "1 epochs"})
    return config


def cifar10_finetune() -> ConfigDict:
    """CIFAR-10 from published weights: EfficientNet-Lite0 on images enlarged to 80×80."""
    config = finetune()
    config.data = ConfigDict({"name": "folder", "path": "data/cifar10.zip"})
    config.splits = ConfigDict({"train": "train", "eval": "test"})
    config.image_size = (80, 80)
    config.transform.augment = ConfigDict({"random_resized_crop": (0.7, 1.0), "flip_horizontal": 0.5})
    config.task.views = "flip"
    config.batch = 64
    config.eval_batch = 250
    config.duration = "3.6 epochs"  # 23 minutes on 2 cores
    config.optimizer.factors = (("^classifier", 3.0),)  # the only part that begins anew
    config.model.drop_path = 0.0
    config.schedule.warmup = "3 %"
    config.every = ConfigDict({"log": "50 steps", "evaluate": "1.8 epochs", "save": "500 steps"})
    return config


def imagenet() -> ConfigDict:
    """ImageNet as published in 2017: SGD, 90 epochs of 256 images, learning rate down at 30, 60 and 80."""
    config = cifar10()
    config.dtype = "bfloat16"
    config.data = ConfigDict({"name": "folder", "path": "data/imagenet"})
    config.splits = ConfigDict({"train": "train", "eval": "val"})
    config.image_size = (224, 224)
    config.transform = ConfigDict(
        {"name": "crops", "fit": "crop", "augment": {"random_resized_crop": (0.08, 1.0), "flip_horizontal": 0.5}}
    )
    config.input = ConfigDict({"threads": 16, "workers": 8, "prefetch": 4})
    config.model = ConfigDict({"name": "resnet", "depth": 50, "zero_init": True})
    config.task = ConfigDict({"name": "classify", "label_smoothing": 0.1})
    config.optimizer = ConfigDict(
        {
            "name": "sgd",
            "learning_rate": 0.1,
            "momentum": 0.9,
            "weight_decay": 1e-4,
            "decay": "kernel$",
            "clip": 0.0,
            "factors": (),
            "freeze": (),
        }
    )
    config.schedule = ConfigDict(
        {"name": "steps", "warmup": "5 epochs", "at": (30 / 90, 60 / 90, 80 / 90), "factor": 0.1}
    )
    config.ema = 0.0
    config.duration = "90 epochs"
    config.every = ConfigDict({"log": "100 steps", "evaluate": "5 epochs", "save": "2000 steps"})
    return config


def imagenet_modern() -> ConfigDict:
    """ImageNet with the A2 recipe: binary cross-entropy, RandAugment, Mixup, CutMix; tested at 288 pixels.

    Not the paper's: AdamW at 3e-3, its gradients clipped, in place of LAMB at 5e-3; targets of mixed images are the
    shares of their classes and not 1 for each; no repeated augmentation, and no stochastic depth (0.05 there).
    """
    config = imagenet()
    config.eval_size = (288, 288)
    config.transform.crop_share = 0.95
    config.transform.augment.rand_augment = (2, 7)
    config.task = ConfigDict({"name": "classify", "loss": "sigmoid", "mixup": 0.1, "cutmix": 1.0})
    config.batch = 2048
    config.optimizer = digits().optimizer
    config.optimizer.learning_rate = 3e-3
    config.optimizer.weight_decay = 0.02
    config.optimizer.clip = 1.0
    config.schedule = ConfigDict({"name": "cosine", "warmup": "5 epochs"})
    config.duration = "300 epochs"
    return config


def vit_large() -> ConfigDict:
    """ViT-L/16 on ImageNet from random weights, as He et al. 2021 (Masked Autoencoders) train their baseline.

    Not the paper's: gradients are clipped. Layers are stacked, so that a mesh may have `pipe`.
    """
    config = imagenet_modern()
    config.eval_size = None
    config.transform.crop_share = 0.875
    config.transform.augment.rand_augment = (2, 9)
    config.model = ConfigDict(
        {
            "name": "vit",
            "variant": "large",
            "patch": 16,
            "stochastic_depth": 0.2,
            "stacked": True,
            "micro_batches": 8,  # with `pipe` only
            "remat": "dots",
        }
    )
    config.task = ConfigDict({"name": "classify", "label_smoothing": 0.1, "mixup": 0.8, "cutmix": 1.0})
    config.batch = 4096
    config.eval_batch = 1024
    config.optimizer.learning_rate = 1.6e-3  # 1e-4 for 256 images
    config.optimizer.weight_decay = 0.3
    config.optimizer.b2 = 0.95
    config.schedule.warmup = "20 epochs"
    config.ema = 0.9999
    config.duration = "200 epochs"
    return config

"""Semantic segmentation: an image becomes a class for every pixel.

    python launch/main.py --config experiments/segment.py
        scenes (default): background and ten digits in the embedded scenes, nothing to download; figure and ground.
    python launch/main.py --config experiments/segment.py:camvid --data masks:DIR
        camvid: a U-Net on street scenes or your own images and masks, from random weights.
    python launch/main.py --config experiments/segment.py:camvid_segnet --data masks:DIR
        camvid_segnet: SegNet on the same.
    python launch/main.py --config experiments/segment.py:finetune --data masks:DIR --init_from WEIGHTS
        finetune: a U-Net on an EfficientNet-Lite0 with published weights; the one to take for your own masks.
    python launch/main.py --config experiments/segment.py:camvid_crf --data masks:DIR --init_from WORKDIR
        camvid_crf: a CRF as the last layer of a trained U-Net, learned end to end.
    python launch/main.py --config experiments/segment.py:voc --data voc:DIR
        voc: DeepLabV3 on a ResNet-50 with torchvision's optimizer and losses; for accelerators.

What each takes and reaches stands in the README's table.
"""

from ml_collections import ConfigDict


def get_config(variant: str = "scenes") -> ConfigDict:
    """Give the config of a variant."""
    variants = {
        "scenes": scenes,
        "camvid": camvid,
        "camvid_segnet": camvid_segnet,
        "camvid_crf": camvid_crf,
        "finetune": finetune,
        "voc": voc,
    }
    if variant not in variants:
        raise ValueError(f"the variants are {', '.join(variants)}")
    return variants[variant]()


def scenes() -> ConfigDict:
    """Embedded scenes, in training with more digits each, for a laptop."""
    return ConfigDict(
        {
            "seed": 0,
            "dtype": "float32",  # of the network's arithmetic; parameters are always float32
            "data": {"name": "scenes", "train_digits": (3, 12), "train_length": 20000, "val_length": 500},
            "splits": {"train": "train", "eval": "val"},
            "image_size": (128, 128),  # height, width
            "eval_size": None,  # of the images in evaluation; None is image_size
            "transform": {
                "name": "pixelwise",
                "fit": "letterbox",
                "augment": {},  # no scene is seen twice, and they vary by themselves
            },
            "input": {"threads": 2, "workers": 0, "prefetch": 2},
            "batch": 4,
            "accumulate": 1,
            "duration": "3300 steps",
            "sampling": "uniform",
            "init_from": "",  # weights to start from: a file, a name or the folder of a run
            "model": {
                "name": "figure_ground",
                "width": 8,
                "backbone": {"name": "resnet", "depth": 18, "width": 0.5, "stages": 2},
            },
            "task": {
                "name": "segment",
                "losses": {"cross_entropy": 1.0, "dice": 1.0},
                "auxiliary": 16.0,  # of the scenes' pixels 8 % are figure, of those in training 15 %
                "auxiliary_losses": {"cross_entropy": 1.0},
                "scales": (0.8, 1.0, 1.25),
            },
            "optimizer": {
                "name": "muon",
                "learning_rate": 4e-3,
                "momentum": 0.95,
                "weight_decay": 0.05,
                "decay": "kernel$",
                "clip": 10.0,
                "factors": (),
                "freeze": (),
            },
            "schedule": {"name": "cosine", "warmup": "2 %"},
            "ema": 0.998,
            "mesh": {"data": -1, "fsdp": 1, "model": 1, "pipe": 1},
            "rules": (),  # of where parameters are, in place of the network's own
            "eval_batch": 20,
            "every": {"log": "200 steps", "evaluate": "0 steps", "save": "1000 steps"},
            "keep": 2,
        }
    )


def camvid() -> ConfigDict:
    """Street scenes from random weights: a U-Net on half a ResNet-18, at two thirds of CamVid's sides."""
    config = scenes()
    config.data = ConfigDict({"name": "masks", "path": "data/camvid", "void": "unlisted"})
    config.image_size = (240, 320)
    config.transform.augment = ConfigDict(
        {
            "flip_horizontal": 0.5,
            "scale": (0.8, 1.3),
            "translate": 0.1,
            "brightness": 0.2,
            "contrast": 0.2,
            "saturation": 0.2,
        }
    )
    config.batch = 8
    config.duration = "1350 steps"
    config.model = ConfigDict({"name": "unet", "width": 8, "backbone": {"name": "resnet", "depth": 18, "width": 0.5}})
    config.task = ConfigDict({"name": "segment", "losses": {"cross_entropy": 1.0, "dice": 1.0}, "flip": True})
    config.schedule.warmup = "5 %"
    config.ema = 0.99
    config.eval_batch = 8
    config.every = ConfigDict({"log": "50 steps", "evaluate": "900 steps", "save": "500 steps"})
    return config


def camvid_segnet() -> ConfigDict:
    """SegNet on a quarter of VGG-16's channels, at half the size of CamVid's images."""
    config = camvid()
    config.image_size = (180, 240)
    config.model = ConfigDict({"name": "segnet", "encoder": "vgg16", "width": 0.25})
    config.duration = "1300 steps"
    return config


def camvid_crf() -> ConfigDict:
    """A trained U-Net with a CRF on top, learned together: the network at a tenth of its rate, the CRF faster."""
    config = camvid()
    config.model = ConfigDict({"name": "crf_rnn", "unary": config.model.to_dict()})
    config.batch = 4
    config.duration = "100 steps"
    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 2e-4
    config.optimizer.factors = (("^crf/", 50.0), ("^unary/head", 10.0))
    config.ema = 0.95
    config.every = ConfigDict({"log": "10 steps", "evaluate": "0 steps", "save": "50 steps"})
    return config


def finetune() -> ConfigDict:
    """Your own masks from published weights: a U-Net on EfficientNet-Lite0."""
    config = camvid()
    config.data = ConfigDict({"name": "masks", "path": "data/masks"})
    config.image_size = (300, 400)
    config.transform.augment.scale = (0.9, 1.5)
    config.init_from = "efficientnet_lite0"
    config.model = ConfigDict({"name": "unet", "backbone": {"name": "efficientnet", "variant": "lite0"}})
    config.task = ConfigDict(
        {
            "name": "segment",
            "weighting": "sqrt",
            "losses": {"cross_entropy": 1.0, "dice": 0.5},
            "flip": True,
            "mean": (0.498,) * 3,
            "std": (0.502,) * 3,
        }
    )
    config.optimizer.learning_rate = 2e-3
    config.optimizer.factors = (("^head", 5.0),)  # of few channels, so that its weights have far to go
    config.duration = "450 steps"
    return config


def voc() -> ConfigDict:
    """Pascal VOC on accelerators: DeepLabV3 on a ResNet-50 of output stride 8, with an auxiliary head."""
    config = camvid()
    config.dtype = "bfloat16"
    config.data = ConfigDict({"name": "voc", "path": "data/VOC2012"})
    config.image_size = (480, 480)
    config.eval_size = (694, 694)  # as large as with a shorter side of 520
    config.transform.augment = ConfigDict({"flip_horizontal": 0.5, "scale": (0.7, 2.8), "translate": 0.4})
    config.input = ConfigDict({"threads": 16, "workers": 8, "prefetch": 4})
    config.init_from = "torchvision/resnet50.IMAGENET1K_V1"
    config.model = ConfigDict(
        {"name": "deeplab", "backbone": {"name": "resnet", "depth": 50, "output_stride": 8}, "aux": True}
    )
    config.task = ConfigDict({"name": "segment", "losses": {"cross_entropy": 1.0}, "auxiliary": 0.5})
    config.batch = 32
    config.duration = "30 epochs"
    config.optimizer = ConfigDict(
        {
            "name": "sgd",
            "learning_rate": 0.02,
            "momentum": 0.9,
            "weight_decay": 1e-4,
            "decay": "kernel$",
            "clip": 0.0,
            "factors": (("aux", 10.0),),
            "freeze": (),
        }
    )
    config.schedule = ConfigDict({"name": "polynomial", "warmup": "0 steps"})
    config.ema = 0.0
    config.every = ConfigDict({"log": "50 steps", "evaluate": "5 epochs", "save": "1000 steps"})
    return config

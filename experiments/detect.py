"""Faster R-CNN with a ResNet-FPN.

    python launch/main.py --config experiments/detect.py
        scenes (default): embedded digits on photos, 128×128, nothing to download.
    python launch/main.py --config experiments/detect.py:bccd --data voc:DIR
        bccd: blood cells at 320×240 from random weights; a good start for any small data set of your own.
    python launch/main.py --config experiments/detect.py:coco --data coco:DIR
        coco: ResNet-50 at COCO size with torchvision's recipe; for accelerators.

What each takes and reaches stands in the README's table.
"""

from ml_collections import ConfigDict


def get_config(variant: str = "scenes") -> ConfigDict:
    """Give the config of a variant: scenes, bccd or coco."""
    variants = {"scenes": scenes, "bccd": bccd, "coco": coco}
    if variant not in variants:
        raise ValueError(f"the variants are {', '.join(variants)}")
    return variants[variant]()


def scenes() -> ConfigDict:
    """Embedded scenes on a small network, for a laptop."""
    return ConfigDict(
        {
            "seed": 0,
            "dtype": "float32",  # of the network's arithmetic; parameters are always float32
            "data": {"name": "scenes", "train_length": 20000, "val_length": 500},
            "splits": {"train": "train", "eval": "val"},
            "image_size": (128, 128),  # height, width
            "transform": {
                "name": "boxes",
                "max_boxes": 16,
                "augment": {"brightness": 0.1},  # no scene is seen twice, and they vary by themselves
            },
            "input": {"threads": 2, "workers": 0, "prefetch": 2},
            "batch": 8,
            "accumulate": 1,
            "duration": "1700 steps",
            "sampling": "uniform",
            "init_from": "",  # weights to start from: a file, a name or the folder of a run
            "model": {
                "name": "faster_rcnn",
                "backbone": {"name": "resnet", "depth": 18, "width": 0.5, "norm": "batch"},
                "channels": 64,
                "representation": 256,
                "anchor_sizes": ((16,), (32,), (64,), (128,), (256,)),
            },
            "task": {
                "name": "two_stage",
                "pre_nms_train": 300,
                "post_nms_train": 200,
                "pre_nms_test": 300,
                "post_nms_test": 200,
                "samples": 64,
                "positives": 0.5,
                "score_threshold": 0.01,  # average precision gains from many weak detections
            },
            "optimizer": {
                "name": "muon",
                "learning_rate": 2e-3,
                "momentum": 0.95,
                "weight_decay": 0.05,
                "decay": "kernel$",
                "clip": 10.0,
                "factors": (),
                "freeze": (),
            },
            "schedule": {"name": "cosine", "warmup": "5 %"},
            "ema": 0.998,
            "mesh": {"data": -1, "fsdp": 1, "model": 1, "pipe": 1},
            "rules": (),  # of where parameters are, in place of the network's own
            "eval_batch": 20,
            "every": {"log": "50 steps", "evaluate": "0 steps", "save": "500 steps"},
            "keep": 2,
        }
    )


def bccd() -> ConfigDict:
    """Small data sets of photos, from random weights."""
    config = scenes()
    config.data = ConfigDict({"name": "voc", "path": "data/bccd"})
    # The first pair that the data has; names given by --config.splits.train and .eval replace them.
    config.splits = ConfigDict({"train": ("trainval", "train"), "eval": ("test", "val")})
    config.image_size = (240, 320)
    config.transform.max_boxes = 64
    config.transform.augment = ConfigDict(
        {
            "flip_horizontal": 0.5,
            "flip_vertical": 0.5,
            "brightness": 0.2,
        }
    )
    config.batch = 4
    config.eval_batch = 4
    config.duration = "880 steps"
    config.model.backbone.width = 1.0
    config.model.channels = 128
    config.model.representation = 512
    config.task.pre_nms_train = 1000
    config.task.post_nms_train = 1000
    config.task.pre_nms_test = 500
    config.task.post_nms_test = 500
    config.task.samples = 256
    config.optimizer.update({"name": "adamw", "learning_rate": 5e-4})
    del config.optimizer.momentum
    return config


def coco() -> ConfigDict:
    """COCO as torchvision trains it: SGD, 26 epochs of 16 images, learning rate down at 16 and 22.

    Not torchvision's: a scale that varies, clipped gradients, no decay of biases, and random weights at the start.
    """
    config = scenes()
    config.batch = 16
    config.dtype = "bfloat16"
    config.data = ConfigDict({"name": "coco", "path": "data/coco"})
    config.image_size = (1024, 1024)
    config.transform.max_boxes = 100
    config.transform.augment = ConfigDict({"flip_horizontal": 0.5, "scale": (0.8, 1.25)})
    config.input = ConfigDict({"threads": 16, "workers": 8, "prefetch": 4})
    config.duration = "26 epochs"
    config.model = ConfigDict(
        {
            "name": "faster_rcnn",
            "backbone": {"name": "resnet", "depth": 50, "width": 1.0, "norm": "batch"},
            "channels": 256,
            "representation": 1024,
            "anchor_sizes": ((32,), (64,), (128,), (256,), (512,)),
        }
    )
    config.task = ConfigDict({"name": "two_stage"})
    config.optimizer = ConfigDict(
        {
            "name": "sgd",
            "learning_rate": 0.02,
            "momentum": 0.9,
            "weight_decay": 1e-4,
            "decay": "kernel$",
            "clip": 10.0,
            "factors": (),
            "freeze": (),
        }
    )
    config.schedule = ConfigDict({"name": "steps", "warmup": "1000 steps", "at": (16 / 26, 22 / 26), "factor": 0.1})
    config.ema = 0.0
    config.eval_batch = 16
    config.every = ConfigDict({"log": "50 steps", "evaluate": "2 epochs", "save": "2000 steps"})
    return config

"""What each augmentation does to accuracy, to time, and to answers under rotation, noise and other colours.

    python launch/ablate.py --config experiments/ablate_augment.py
        digits (default): the network of classify.py on scikit-learn's digits.
    python launch/ablate.py --config experiments/ablate_augment.py:scenes
        scenes: the detector of detect.py on the embedded scenes, trained for fewer steps, with AdamW.

The baseline is without any augmentation. What was found stands in the README.
"""

import pathlib

from ml_collections import ConfigDict

from mapjax.config import load as configs
from mapjax.study.sweep import Sweep

COLOUR = {"brightness": 0.3, "contrast": 0.3, "saturation": 0.3, "hue": 15.0}


def get_config(variant: str = "digits") -> ConfigDict:
    """Give the config of a variant: that of classify.py or detect.py, without augmentation."""
    if variant not in ("digits", "scenes"):
        raise ValueError("the variants are digits, scenes")
    file = {"digits": "classify.py", "scenes": "detect.py"}[variant]
    config = configs.load(str(pathlib.Path(__file__).with_name(file)))
    with config.unlocked():
        config.transform.augment = ConfigDict()
        if variant == "scenes":
            config.optimizer.update({"name": "adamw", "learning_rate": 1e-3})
            del config.optimizer.momentum
            config.duration = "600 steps"
            config.data.val_length = 300
    return config


def sweep(variant: str = "digits") -> Sweep:
    """Give the cells: each augmentation by itself, and all together."""
    turned = {"rotate": 12.0}
    if variant == "digits":
        moved = {"scale": (0.9, 1.1), "translate": 0.1}
    else:
        moved = {"scale": (0.8, 1.25), "crop": 0.5}
    each = {
        "flips": {"flip_horizontal": 0.5},
        "scale-crop": moved,
        "rotation": turned,
        "colour": COLOUR,
        "noise": {"noise": 16.0},
    }
    each["all"] = {key: value for one in each.values() for key, value in one.items()}
    cells = {"none": {}, **{name: _augmented(changes) for name, changes in each.items()}}
    first = "top1" if variant == "digits" else "AP"
    tests = {
        "rotated": {"shift": {"rotate": 25.0}},
        "noisy": {"shift": {"noise": 60.0}},
        "recoloured": {"shift": {"brightness": 0.5, "contrast": 0.5, "saturation": 0.5, "hue": 60.0}},
    }
    metrics = dict.fromkeys([first, *(f"{first}@{test}" for test in tests)], "max")
    ranges = {
        "transform.augment.rotate": ("uniform", 0.0, 30.0),
        "transform.augment.translate": ("uniform", 0.0, 0.2),
        "optimizer.learning_rate": ("log", 5e-4, 2e-2),
    }
    return Sweep(cells, "none", metrics, tests=tests, by_class="f1" if variant == "digits" else "AP", ranges=ranges)


def _augmented(changes: dict) -> dict:
    return {f"transform.augment.{key}": value for key, value in changes.items()}

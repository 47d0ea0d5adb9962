"""What each augmentation does to accuracy, to time, and to answers under rotation, noise and other colours.

    mapjax ablate --config ablate_augment
        digits (default): the network of classify.py on scikit-learn's digits.
    mapjax ablate --config ablate_augment:scenes
        scenes: the detector of detect.py on the embedded scenes, trained for fewer steps, with AdamW.

In a checkout, `python launch/ablate.py --config experiments/ablate_augment.py` is the same. The baseline is without any
augmentation. What was found: docs/results.md.
"""

from typing import Any

from mapjax.config import load as configs
from mapjax.study.sweep import Sweep

COLOUR = {"brightness": 0.3, "contrast": 0.3, "saturation": 0.3, "hue": 15.0}


def digits() -> dict[str, Any]:
    """The digits of classify.py, without augmentation."""
    return configs.recipe("classify:digits") | {"transform": {"name": "crops", "fit": "stretch", "augment": {}}}


def scenes() -> dict[str, Any]:
    """The scenes of detect.py, without augmentation."""
    return configs.recipe("detect:scenes") | {
        "data": {"name": "scenes", "train_length": 20000, "val_length": 300},
        "transform": {"name": "boxes", "max_boxes": 16, "augment": {}},
        "duration": "600 steps",
        "optimizer": {"name": "adamw", "learning_rate": 1e-3},
    }


VARIANTS = {"digits": digits, "scenes": scenes}


def get_config(variant: str = "digits") -> dict[str, Any]:
    """Give the recipe of a variant."""
    return VARIANTS[variant]()


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
        "rotated": {"corruption": {"rotate": 25.0}},
        "noisy": {"corruption": {"noise": 60.0}},
        "recoloured": {"corruption": {"brightness": 0.5, "contrast": 0.5, "saturation": 0.5, "hue": 60.0}},
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

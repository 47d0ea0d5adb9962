"""The remedies for a long tail: digit k has a share of 100^(-k/9) of its training examples, and all alike are held out.

    python launch/ablate.py --config experiments/ablate_imbalance.py

The baseline is without any. What was found, by class too, stands in the README.
"""

import pathlib

from ml_collections import ConfigDict

from mapjax.config import load as configs
from mapjax.study.sweep import Sweep

RARE = tuple(f"recall/{digit}" for digit in (7, 8, 9))


def get_config() -> ConfigDict:
    """Give the config of classify.py on digits with a long tail, for 600 steps."""
    config = configs.load(str(pathlib.Path(__file__).with_name("classify.py")))
    with config.unlocked():
        config.data.tail = 100.0
        config.duration = "600 steps"
    return config


def sweep() -> Sweep:
    """Give the cells: other samplers, other weights, other losses."""
    cells = {
        "none": {},
        "over-sampling": {"sampling": "over"},
        "under-sampling": {"sampling": "under"},
        "inverse-weights": {"task.weighting": "inverse"},
        "effective-weights": {"task.weighting": "effective"},
        "focal": {"task.focal": 2.0},
        "logit-adjustment": {"task.logit_adjustment": 1.0},
    }
    metrics = {"top1": "max", "recall": "max", **dict.fromkeys(RARE, "max")}
    return Sweep(cells, "none", metrics, by_class="recall")

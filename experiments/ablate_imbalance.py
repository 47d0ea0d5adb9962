"""The remedies for a long tail: digit k has a share of 100^(-k/9) of its training examples, and all alike are held out.

    mapjax ablate --config ablate_imbalance

In a checkout, `python launch/ablate.py --config experiments/ablate_imbalance.py` is the same. The baseline is without
any remedy. What was found, by class too: docs/results.md.
"""

from typing import Any

from mapjax.config import load as configs
from mapjax.study.sweep import Sweep

RARE = tuple(f"recall/{digit}" for digit in (7, 8, 9))


def get_config() -> dict[str, Any]:
    """The digits of classify.py with a long tail, for 600 steps."""
    return configs.recipe("classify:digits") | {"data": {"name": "digits", "tail": 100.0}, "duration": "600 steps"}


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

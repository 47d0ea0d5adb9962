"""Normalisation of a detector's backbone against the batch size: batch norm, none that learns (frozen), group norm.

    mapjax ablate --config ablate_norm

In a checkout, `python launch/ablate.py --config experiments/ablate_norm.py` is the same. Every cell sees as many
images, with a learning rate in proportion to the batch. What was found: docs/results.md.
"""

from typing import Any

from mapjax.config import load as configs
from mapjax.study.sweep import Sweep

IMAGES, RATE = 3200, 1e-3 / 8  # of a whole run; the learning rate for each image of a batch


def get_config() -> dict[str, Any]:
    """The scenes of detect.py, with AdamW; each cell says how long."""
    return configs.recipe("detect:scenes") | {
        "data": {"name": "scenes", "train_length": 20000, "val_length": 300},
        "optimizer": {"name": "adamw", "learning_rate": 2e-3},
    }


def sweep() -> Sweep:
    """Give a cell for each normalisation and batch size."""
    cells = {
        f"{norm}-{batch}": {
            "model.backbone.norm": norm,
            "batch": batch,
            "duration": f"{IMAGES // batch} steps",
            "optimizer.learning_rate": RATE * batch,
        }
        for batch in (2, 8)
        for norm in ("batch", "frozen", "group")
    }
    return Sweep(cells, "batch-8", {"AP": "max", "AP50": "max"}, by_class="AP")

"""Normalisation of a detector's backbone against the batch size: batch norm, none that learns (frozen), group norm.

    python launch/ablate.py --config experiments/ablate_norm.py

Every cell sees as many images, with a learning rate in proportion to the batch. What was found stands in the
README.
"""

import pathlib

from ml_collections import ConfigDict

from mapjax.config import load as configs
from mapjax.study.sweep import Sweep

IMAGES, RATE = 3200, 1e-3 / 8  # of a whole run; the learning rate for each image of a batch


def get_config() -> ConfigDict:
    """Give the config of detect.py's scenes, shorter and with AdamW."""
    config = configs.load(str(pathlib.Path(__file__).with_name("detect.py")))
    with config.unlocked():
        config.optimizer.name = "adamw"
        del config.optimizer.momentum
        config.data.val_length = 300
    return config


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

"""An experiment of these parts.

PYTHONPATH=docs mapjax train --config docs/examples/experiment.py --data examples.data_format:FILE.jsonl
"""


def get_config():
    """Give what differs from the defaults."""
    return {
        "data": {"name": "examples.data_format", "path": "labels.jsonl"},
        "image_size": (16, 16),
        "transform": {"name": "examples.augmentation", "fit": "stretch", "augment": {"rotate": 12.0}},
        "batch": 16,
        "duration": "40 epochs",
        "model": {"name": "examples.network", "width": 32, "depth": 2},
        "task": {"name": "examples.task"},
        "metrics": ("accuracy", "examples.metric"),
        "every": {"evaluate": "0 steps"},
    }

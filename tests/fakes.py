"""What runs that are only pretended have in common."""

CONFIG = {  # of a detector of scenes
    "seed": 0,
    "data": {"name": "scenes", "val_length": 3, "size": (32, 32), "digits": (1, 2), "digit_size": (10.0, 16.0)},
    "splits": {"train": "train", "eval": "val"},
    "image_size": (32, 32),
    "transform": {"name": "boxes", "max_boxes": 4, "augment": {}},
    "input": {"threads": 1, "workers": 0, "prefetch": 1},
    "task": {"name": "two_stage"},
    "eval_batch": 2,
    "mesh": {"data": 1, "fsdp": 1, "model": 1, "pipe": 1},
}

"""Batches of images with boxes, as detectors are given them."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

FEW: dict[str, Any] = {  # proposals and answers of the task two_stage
    "pre_nms_train": 20,
    "post_nms_train": 10,
    "pre_nms_test": 20,
    "post_nms_test": 10,
    "samples": 8,
    "detections": 3,
}


def batch_of(photos=2, size=(32, 32)):
    """Random images without any box."""
    rng, rows = np.random.default_rng(0), 3
    batch = {
        "image": rng.integers(0, 256, (photos, *size, 3), np.uint8),
        "boxes": np.zeros((photos, rows, 4), np.float32),
        "classes": np.zeros((photos, rows), np.int32),
        "crowd": np.zeros((photos, rows), bool),
        "valid": np.zeros((photos, rows), bool),
        "mask": np.ones(photos, bool),
        "size": np.tile(np.int32(size), (photos, 1)),
        "matrix": np.tile(np.eye(3, dtype=np.float32), (photos, 1, 1)),
    }
    return jax.tree.map(jnp.asarray, batch)


def with_box(batch, photo, row, box, number=0, crowd=False):
    """Put a box into a row of an image's list."""
    new = {"boxes": jnp.asarray(box, jnp.float32), "classes": number, "crowd": crowd, "valid": True}
    return batch | {name: batch[name].at[photo, row].set(value) for name, value in new.items()}

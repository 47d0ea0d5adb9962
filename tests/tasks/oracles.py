"""Boxes and losses by their definitions, one at a time in NumPy: what the task's tests compare with."""

import numpy as np


def iou_of(a, b):
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0) * max(height, 0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared
    return shared / union if union > 0 else 0.0


def offsets(box, anchor):
    size, anchor_size = np.subtract(box[2:], box[:2]), np.subtract(anchor[2:], anchor[:2])
    shift = (np.add(box[2:], box[:2]) - np.add(anchor[2:], anchor[:2])) / 2
    return np.concatenate([shift / anchor_size, np.log(size / anchor_size)])


def huber(error, beta=1 / 9):
    error = np.abs(error)
    return np.where(error < beta, error**2 / 2 / beta, error - beta / 2)


def coverage_of(a, b):
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return max(width, 0) * max(height, 0) / ((a[2] - a[0]) * (a[3] - a[1]))

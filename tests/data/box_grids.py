"""Masks inside their boxes, put back into the frame, for tests."""

import numpy as np


def in_frame(grids, boxes, size):
    """Ask each pixel's centre which cell of the box it is in: bool (n h w)."""
    y, x = np.mgrid[: size[0], : size[1]] + 0.5
    found = np.zeros((len(grids), *size), bool)
    for grid, (x1, y1, x2, y2), out in zip(grids, boxes.astype(np.float64), found):
        if x2 > x1 and y2 > y1:
            column = np.floor((x - x1) / (x2 - x1) * grid.shape[1]).astype(int)
            row = np.floor((y - y1) / (y2 - y1) * grid.shape[0]).astype(int)
            inside = (column >= 0) & (column < grid.shape[1]) & (row >= 0) & (row < grid.shape[0])
            out[inside] = grid[row[inside], column[inside]] > 127
    return found

"""Instance masks as an example and a batch have them: each drawn inside its box on a grid of cells.

Small objects keep their detail and large ones take no more room: 100 objects of 64×64 cells are 0.4 MB an image of any
size. Box and mask are moved together by every later shift of the box, so nothing is drawn twice.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt8

from mapjax.data import geometry, run_lengths
from mapjax.data.run_lengths import Mask
from mapjax.ops import mask_pasting

_MARGIN = 1  # pixel around a mask, between which and the mask its border is drawn


def draw(
    masks: Sequence[Mask], size: geometry.Size, matrix: geometry.Matrix, boxes: Float[np.ndarray, "n 4"], cells: int
) -> UInt8[np.ndarray, "n cells cells"]:
    """Draw masks of an image of height, width inside boxes of another frame.

    A cell holds the share of it that the mask covers, 0 to 255: averaged where the mask shrinks, else interpolated
    between the centres of its pixels.

    Args:
      matrix: from the image to the frame.
      boxes: in the frame, each wider and higher than 0.

    Raises:
      ValueError: run lengths of another size.
    """
    drawn = np.zeros((len(masks), cells, cells), np.uint8)
    for mask, box, grid in zip(masks, boxes.astype(np.float64), drawn):
        window = run_lengths.cut(mask, size, _MARGIN)
        if window.bits.size == 0:
            continue
        x1, y1, x2, y2 = box.tolist()
        onto = geometry.compose(
            geometry.translate(window.left, window.top),
            matrix,
            geometry.translate(-x1, -y1),
            geometry.scale(cells / (x2 - x1), cells / (y2 - y1)),
        )
        levels = (window.bits.view(np.uint8) * np.uint8(255))[..., None]
        grid[:] = geometry.map_image(onto, levels, (cells, cells), (0,))[..., 0]
    return drawn


def paste(
    scores: Float[np.ndarray, "n m m"], boxes: Float[np.ndarray, "n 4"], size: geometry.Size, threshold: float = 0.5
) -> list[bytes]:
    """Make run lengths of masks that a detector answers, of an image of height, width.

    Args:
      scores: of each cell of a grid inside the box.
      boxes: in pixels of the image.
      threshold: a pixel of the mask has a higher score.

    Example:
      >>> import numpy as np
      >>> from mapjax.data import box_masks, run_lengths
      >>> texts = box_masks.paste(np.ones((1, 28, 28), np.float32), np.float32([[2, 1, 4, 3]]), (9, 9))
      >>> run_lengths.area(texts[0])
      16
    """
    texts = []
    for mask, box in zip(scores, boxes):
        found = mask_pasting.paste(mask, box, size)
        rows, columns = found.scores.shape
        strip = np.zeros((size[0], columns), bool)
        strip[found.top : found.top + rows] = found.scores > threshold
        texts.append(run_lengths.encode(strip, found.left, size[1] - found.left - columns))
    return texts


def finished(result: Mapping[str, Any], sizes: Int[np.ndarray, "b 2"]) -> dict[str, Any]:
    """Give a result, whose `mask_scores` lie inside their boxes, its `masks` in pixels of the images.

    Args:
      result: of a batch, on the host; one without such scores is given back.
      sizes: height, width of each image.

    Returns:
      The result with "masks": of each image a list of COCO's compressed run lengths, {"size", "counts"}, one a row;
      those of rows that are not valid are empty.
    """
    if "mask_scores" not in result:
        return dict(result)
    masks = []
    for scores, boxes, valid, (height, width) in zip(
        *(np.asarray(result[key]) for key in ("mask_scores", "boxes", "valid")), np.asarray(sizes).tolist()
    ):
        texts = [run_lengths.compress([height * width])] * len(valid)
        rows = np.flatnonzero(valid)
        for row, text in zip(rows.tolist(), paste(scores[rows], boxes[rows], (height, width))):
            texts[row] = text
        masks.append([{"size": [height, width], "counts": text.decode("ascii")} for text in texts])
    return {**result, "masks": masks}

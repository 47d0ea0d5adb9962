"""Copy-paste of objects by their masks (Ghiasi et al. 2021, arXiv 2012.07177): what they cover is no longer seen."""

import numpy as np
from jaxtyping import Bool

from mapjax.data import geometry, labels
from mapjax.data.transforms.boxes import Example
from mapjax.errors import UserError


def require_masks(lists: Example, file: str) -> None:
    """Refuse an image whose objects have no masks.

    Raises:
      UserError: naming it.
    """
    if not labels.has(lists, "masks"):
        raise UserError(
            f"{file} has no masks, by which transform.copy_paste cuts objects out; set data.masks=True for data that "
            "have them, or copy_paste=0."
        )


def paste(onto: Example, source: Example, chosen: Bool[np.ndarray, " n"], min_visible: float | int) -> Example:
    """Put some objects of one view onto another of the same frame.

    An object that is partly covered gets the box around what is left of its mask, and is dropped where less than
    `min_visible` of it is left, or nothing; a keypoint that is covered is hidden. An object without a pixel in its mask
    keeps its box.

    Args:
      onto, source: `image` and unpadded lists, with `masks`.
      chosen: which objects of `source`.

    Returns:
      The view with the objects of both.
    """
    taken = {key: value[chosen] for key, value in source.items() if key != "image"}
    covered = taken["masks"].any(axis=0)
    left = onto["masks"] & ~covered
    before, after = (masks.sum(axis=(1, 2)) for masks in (onto["masks"], left))
    keep = (before == 0) | ((after > 0) & (after >= min_visible * before))
    found = {key: value[keep] for key, value in onto.items() if key != "image"} | {"masks": left[keep]}
    found["boxes"] = found["boxes"].copy()
    for row in np.flatnonzero((after < before)[keep]).tolist():
        found["boxes"][row] = geometry.mask_bounds(found["masks"][row])
    if labels.has(found, "keypoints"):
        found["keypoints"] = _hidden(found["keypoints"], covered)
    image = np.where(covered[..., None], source["image"], onto["image"])
    return {"image": image, **together(found, taken)}


def together(*parts: Example) -> Example:
    """Put unpadded lists end to end; what only some have is zeros for the others: keypoints not labelled, say."""
    like = {key: value for part in reversed(parts) for key, value in part.items()}

    def rows(part: Example, key: str) -> np.ndarray:
        missing = (len(part["valid"]), *like[key].shape[1:])
        return part[key] if key in part else np.zeros(missing, like[key].dtype)

    return {key: np.concatenate([rows(part, key) for part in parts]) for key in like}


def _hidden(keypoints: np.ndarray, covered: Bool[np.ndarray, "h w"]) -> np.ndarray:
    """Call the keypoints hidden (1) that are seen (2) and whose pixel is covered."""
    height, width = covered.shape
    x, y = (np.clip(keypoints[..., k].astype(int), 0, side - 1) for k, side in enumerate((width, height)))
    found = keypoints.copy()
    found[..., 2] = np.where(covered[y, x], np.minimum(found[..., 2], 1), found[..., 2])
    return found

"""Skeletons: which keypoints a line joins where they are drawn."""

from collections.abc import Sequence

from mapjax.errors import UserError, near

Skeleton = tuple[tuple[int, int], ...]  # pairs of keypoints, by number from 0 on


def named(pairs: Sequence[tuple[str, str]], names: Sequence[str], where: str) -> Skeleton:
    """Number the keypoints of a skeleton that is given by names.

    Raises:
      UserError: a name that is no keypoint.

    Example:
      >>> from mapjax.data import skeletons
      >>> skeletons.named([("nose", "tail")], ("tail", "nose"), "mine")
      ((1, 0),)
    """
    places = {name: number for number, name in enumerate(names)}
    for pair in pairs:
        if (wrong := next((name for name in pair if name not in places), None)) is not None:
            raise UserError(f"{where}: the skeleton names {wrong!r}, which is no keypoint.{near(str(wrong), names)}")
    return tuple((places[one], places[other]) for one, other in pairs)


def numbered(pairs: Sequence[tuple[int, int]], count: int, where: str) -> Skeleton:
    """Check a skeleton that is given by numbers from 1 on, as COCO's are, of `count` keypoints.

    Raises:
      UserError: a number that no keypoint has.
    """
    for pair in pairs:
        if not all(1 <= number <= count for number in pair):
            raise UserError(
                f"{where}: the skeleton joins the keypoints {list(pair)}, and there are {count}; count them from 1 on."
            )
    return tuple((one - 1, other - 1) for one, other in pairs)

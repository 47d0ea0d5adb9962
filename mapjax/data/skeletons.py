"""Skeletons: which keypoints a line joins where they are drawn."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from mapjax.errors import UserError, near

Skeleton = tuple[tuple[int, int], ...]  # pairs of keypoints, by number from 0 on


class Points(NamedTuple):
    """What is known of an object's keypoints: their names, and which of them a line joins; () where it has none."""

    names: tuple[str, ...] = ()
    skeleton: Skeleton = ()


NONE = Points()
PERSON = Points(  # COCO's, https://cocodataset.org/#keypoints-2020
    (
        "nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder", "left_elbow",
        "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle",
        "right_ankle",
    ),
    (
        (15, 13), (13, 11), (16, 14), (14, 12), (11, 12), (5, 11), (6, 12), (5, 6), (5, 7), (6, 8), (7, 9), (8, 10),
        (1, 2), (0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (4, 6),
    ),
)  # fmt: skip


def written(points: Points) -> dict[str, Any]:
    """Write points as JSON, pairs by number from 0 on.

    Example:
      >>> from mapjax.data import skeletons
      >>> skeletons.written(skeletons.Points(("nose", "tail"), ((0, 1),)))
      {'names': ['nose', 'tail'], 'skeleton': [[0, 1]]}
    """
    return {"names": list(points.names), "skeleton": [list(pair) for pair in points.skeleton]}


def read(content: Any, where: str) -> Points:
    """Read what `written` gave.

    Raises:
      UserError: it is something else.
    """
    match content:
        case {"names": [*names], "skeleton": [*pairs]} if all(isinstance(name, str) for name in names):
            if all(_is_pair(pair, len(names)) for pair in pairs):
                return Points(tuple(names), tuple((one, other) for one, other in pairs))
    raise UserError(f"{where} is damaged: it must hold 'names' and 'skeleton', pairs of their numbers; restore it.")


def _is_pair(pair: Any, count: int) -> bool:
    return isinstance(pair, list) and len(pair) == 2 and all(type(one) is int and 0 <= one < count for one in pair)


def named(pairs: Sequence[Any], names: Sequence[str], where: str) -> Skeleton:
    """Number the keypoints of a skeleton that is given by names.

    Raises:
      UserError: a name that is no keypoint, or no list of pairs.

    Example:
      >>> from mapjax.data import skeletons
      >>> skeletons.named([("nose", "tail")], ("tail", "nose"), "mine")
      ((1, 0),)
    """
    places = {name: number for number, name in enumerate(names)}
    if isinstance(pairs, str) or not all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in pairs):
        raise UserError(f"{where}: skeleton={pairs!r} must be pairs of names, as in (('nose', 'tail'),).")
    for pair in pairs:
        if (wrong := next((name for name in pair if str(name) not in places), None)) is not None:
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

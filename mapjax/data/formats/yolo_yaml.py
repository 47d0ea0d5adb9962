"""`data.yaml` of YOLO data sets: its keys, judged."""

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from mapjax.data import documents, fields, splits
from mapjax.data.formats.yolo_rows import MOST_CLASS
from mapjax.errors import UserError

_ABSENT = ("", "~", "null")
_MORE_SPLITS = ("trainval", "minival")


class Layout(NamedTuple):
    """What is known of a data set before its labels are read.

    root: the folder that all of it is below.
    where: what says so, for messages: data.yaml, or the folder.
    splits: of each the folders of images and the lists of files, below the root or as written.
    names: of the classes; None where nothing names them.
    points: how many keypoints an object has, and how many numbers each; (0, 0): none.
    mirrored: the keypoint that each becomes in a mirror, as given.
    point_names: of the keypoints, as given.
    """

    root: pathlib.Path
    where: str
    splits: Mapping[str, Sequence[str]]
    names: tuple[str, ...] | None
    points: tuple[int, int] = (0, 0)
    mirrored: tuple[int, ...] = ()
    point_names: tuple[str, ...] = ()


def read(file: pathlib.Path) -> Layout:
    """Read what a data.yaml says.

    Raises:
      UserError: it cannot be read, or contradicts itself.
    """
    try:
        content = documents.parse_yaml(documents.read(file, documents.MOST_YAML))
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror}).") from error
    except ValueError as error:
        raise UserError(f"{file} is not to be read as YAML: {error}; correct it.") from error
    if not isinstance(content, Mapping):
        raise UserError(f"{file} has no keys; write train, val and names, as in 'names: [cat, dog]'.")
    entries = {key: _texts(value, key, file) for key, value in content.items() if is_split(key)}
    entries = {key: value for key, value in entries.items() if value}
    if not entries:
        raise UserError(
            f"{file} has no 'train' or 'val'; write the folders of their images, as in 'train: images/train'."
        )
    points = _points(content.get("kpt_shape"), file)
    return Layout(
        _root(content.get("path"), file),
        str(file),
        entries,
        _names(content.get("names"), content.get("nc"), file),
        points,
        _mirrored(content.get("flip_idx"), points[0], file),
        _point_names(content.get("kpt_names"), points[0]),
    )


def names_in(file: pathlib.Path) -> tuple[str, ...]:
    """Read a list of classes, one a line; errors as for `read`."""
    try:
        lines = documents.read(file, documents.MOST_YAML).decode("utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise UserError(
            f"{file} cannot be read as text ({error}); write the names of the classes, one a line."
        ) from error
    return _require_names([line.strip() for line in lines if line.strip()], file)


def _names(given: Any, count: Any, file: pathlib.Path) -> tuple[str, ...] | None:
    """Read `names`, a list or a mapping from 0 on, and compare their number with `nc`; of `nc` alone, numbers."""
    number = None if count is None or count in _ABSENT else fields.whole(count, 1, MOST_CLASS + 1)
    if number is None and not (count is None or count in _ABSENT):
        raise UserError(f"{file}: nc: {str(count)[:40]!r} must be the number of classes, from 1 to {MOST_CLASS + 1:,}.")
    if given is None or given in _ABSENT:
        return None if number is None else tuple(map(str, range(number)))
    if isinstance(given, Mapping):
        ids = {fields.whole(key): value for key, value in given.items()}
        if (missing := next((k for k in range(len(given)) if k not in ids), None)) is not None:
            raise UserError(
                f"{file}: names has {len(given)} classes and none of the number {missing}; count from 0 on."
            )
        given = [ids[k] for k in range(len(ids))]
    if not isinstance(given, list) or not all(isinstance(name, str) for name in given):
        raise UserError(f"{file}: names must be a list of texts, as in 'names: [cat, dog]', or numbers with texts.")
    if number is not None and number != len(given):
        raise UserError(f"{file} says nc: {number} and names {len(given)} classes; correct the one that is wrong.")
    return _require_names([str(fields.text(name)) for name in given], file)


def _require_names(names: Sequence[str], file: pathlib.Path) -> tuple[str, ...]:
    seen = set[str]()
    twice = next((name for name in names if name in seen or seen.add(name)), None)
    if twice is not None or not names:
        wrong = "names no class" if twice is None else f"names {twice!r} twice"
        raise UserError(f"{file} {wrong}; give each class one name of its own.")
    return tuple(names)


def _points(given: Any, file: pathlib.Path) -> tuple[int, int]:
    if given is None or given in _ABSENT:
        return 0, 0
    found = [fields.whole(one, 1, 10_000) for one in given] if isinstance(given, list) else []
    if len(found) != 2 or found[0] is None or found[1] not in (2, 3):
        raise UserError(f"{file}: kpt_shape: {str(given)[:40]} must be [keypoints, 2 or 3], as in [17, 3].")
    return found[0], found[1]


def _mirrored(given: Any, count: int, file: pathlib.Path) -> tuple[int, ...]:
    if given is None or given in _ABSENT or not count:
        return ()
    found = [fields.whole(one) for one in given] if isinstance(given, list) else []
    if sorted(one for one in found if one is not None) != list(range(count)):
        raise UserError(f"{file}: flip_idx must have each of the numbers 0 to {count - 1} once, that of kpt_shape.")
    return tuple(one for one in found if one is not None)


def _point_names(given: Any, count: int) -> tuple[str, ...]:
    """Take the names of the keypoints, a list or one of each class, where they are as many as kpt_shape says."""
    listed = next(iter(given.values()), None) if isinstance(given, Mapping) and given else given
    if isinstance(listed, list) and len(listed) == count and all(isinstance(name, str) for name in listed):
        return tuple(listed)
    return tuple(map(str, range(count)))


def _texts(value: Any, key: str, file: pathlib.Path) -> list[str]:
    found = value if isinstance(value, list) else [value]
    if not all(isinstance(one, str) and "\0" not in one for one in found):
        raise UserError(f"{file}: {key} must be a folder of images, a list of files (.txt), or several of these.")
    return [one for one in found if one.strip().lower() not in _ABSENT]


def is_split(key: str) -> bool:
    """Tell whether a key, or a folder, is called as a split is."""
    return splits.kind_of(key) is not None or key in _MORE_SPLITS


def _root(given: Any, file: pathlib.Path) -> pathlib.Path:
    """Return the folder that `path` names, else that of data.yaml: copied data seldom lie where they once did."""
    if isinstance(given, str) and given.strip().lower() not in _ABSENT and "\0" not in given:
        place = file.parent / pathlib.Path(given).expanduser()
        if place.is_dir():
            return pathlib.Path(os.path.normpath(place))
    return file.parent

"""The images that a COCO file lists, judged: names that leave the data folder, sizes that are not the images'."""

import os
import pathlib
import urllib.parse
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np

from mapjax.data import images
from mapjax.data.geometry import Size
from mapjax.data.records import Labels
from mapjax.errors import UserError

Dropped = dict[str, list[str]]

_FEWEST = 4  # images of which half may be there twice by chance
_LOOKED_AT = 200  # images whose headers are read; of all, once one of these has another size than the JSON says
_THREADS = 16  # for the latency of many small files


def can_be_a_file(name: str) -> bool:
    """Tell whether a file can have this name: text that the disk can write, without a zero byte."""
    try:
        return bool(name) and b"\0" not in os.fsencode(name)
    except UnicodeEncodeError:
        return False


def is_plain(name: str) -> bool:
    """Tell whether a name is relative and goes down only, so that one folder alone has such a file."""
    return not os.path.isabs(name) and ".." not in name.split("/")


def leave_out_strays(
    entries: dict[int, dict[str, Any]],
    folder: pathlib.Path,
    root: pathlib.Path,
    file: pathlib.Path,
    dropped: Dropped,
) -> None:
    """Take out the images whose names lead out of the data folder, however they are spelt.

    Args:
      entries: of the file, by id, written to.
      folder: that the names are relative to.
      root: the data folder.
      file: for messages.
      dropped: what is left out, written to.

    Raises:
      UserError: all of them do.
    """
    strays = {
        number: entry["file_name"] for number, entry in entries.items() if _leaves(entry["file_name"], folder, root)
    }
    if strays and len(strays) == len(entries):
        name = next(iter(strays.values()))
        raise UserError(
            f"{file}: the names of all {len(strays)} images, such as {name!r}, leave the data folder {root}; write "
            "them relative to the folder of the images."
        )
    for number, name in strays.items():
        del entries[number]
        dropped["image name that leaves the data folder"].append(name)


def _leaves(name: str, folder: pathlib.Path, root: pathlib.Path) -> bool:
    """Tell whether a name, or what it may be resolved to, is not below the root."""
    if is_plain(name) and "\\" not in name and "%" not in name:
        return False
    top = os.path.abspath(root)
    spellings = {name, name.replace("\\", "/"), urllib.parse.unquote(name).replace("\\", "/")}
    places = [os.path.abspath(os.path.join(folder, one)) for one in spellings]
    return any(os.path.commonpath([place, top]) != top for place in places)


def join_repeated(labels: dict[int, Labels], where: str, dropped: Dropped) -> dict[int, int]:
    """Take out the images whose file came before under another id: what the one has, the other would lack.

    Args:
      labels: of the images by id, written to.
      where: the file and the split, for messages.
      dropped: what is left out, written to.

    Returns:
      The id that gets the objects of each id that is taken out.

    Raises:
      UserError: half of the images, or more, are such.
    """
    first: dict[str, int] = {}
    joined = {number: first.setdefault(os.path.normpath(one.file), number) for number, one in labels.items()}
    joined = {number: kept for number, kept in joined.items() if kept != number}
    shown = [f"{labels[number].file} (ids {kept} and {number})" for number, kept in joined.items()]
    if len(labels) >= _FEWEST and 2 * len(joined) >= len(labels):
        raise UserError(
            f"{where}: {len(joined)} of {len(labels)} images are files listed before under another id, such as "
            f"{shown[0]}; the file was probably merged with a copy of itself: keep one."
        )
    for number, one in zip(joined, shown):
        del labels[number]
        dropped["image file listed before, whose objects join the first"].append(one)
    return joined


def leave_out_misfits(labels: dict[int, Labels], folder: pathlib.Path, where: str, dropped: Dropped) -> None:
    """Take out the images that have another size than the JSON says, so that boxes lie elsewhere in them.

    Some headers are read, evenly spread; those of all images once one of these does not fit.

    Args:
      labels: of the images by id, written to.
      folder: of the images.
      where: the file and the split, for messages.
      dropped: what is left out, written to.

    Raises:
      UserError: most of them are of another size.
    """
    numbers = list(labels)
    few = min(len(numbers), _LOOKED_AT)
    some = [numbers[row] for row in (np.arange(few) * len(numbers) // max(few, 1)).tolist()]
    if not _misfits(labels, some, folder):
        return
    misfits = _misfits(labels, numbers, folder)
    shown = {
        number: f"{labels[number].file} ({labels[number].size[0]}×{labels[number].size[1]} in the JSON, and the image "
        f"{size[0]}×{size[1]}, height × width)"
        for number, size in misfits.items()
    }
    if 2 * len(misfits) > len(numbers):
        raise UserError(
            f"{where}: {len(misfits)} of {len(numbers)} images have another size than the JSON says, such as "
            f"{next(iter(shown.values()))}; they were probably resized after they were labelled: restore them, or "
            "scale 'width', 'height' and the labels."
        )
    for number, one in shown.items():
        del labels[number]
        dropped["image of another size than the JSON says"].append(one)


def _misfits(labels: Mapping[int, Labels], numbers: list[int], folder: pathlib.Path) -> dict[int, Size]:
    """Return the size of every image that is not as the JSON says."""
    with ThreadPoolExecutor(_THREADS) as pool:
        sizes = pool.map(partial(_other_size, folder), [labels[number] for number in numbers], chunksize=16)
        return {number: size for number, size in zip(numbers, sizes) if size is not None}


def _other_size(folder: pathlib.Path, one: Labels) -> Size | None:
    """Return the size of an image if it is another than that of its labels, neither as stored nor turned upright."""
    file = folder / one.file
    try:
        header = images.read_header(file)
    except (UserError, OSError):
        return None  # found, counted and replaced when it is read
    return None if one.size in (header.upright, header.stored) else header.upright

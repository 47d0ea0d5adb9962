"""Where the splits and the classes of a folder of images are, told from names alone."""

import collections
import posixpath
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from mapjax.data import splits
from mapjax.errors import UserError
from mapjax.runtime.names import shown

FORM = "it needs DIR/train/CLASS/*.jpg or DIR/CLASS/*.jpg"

_SHOWN = 4  # names that a message lists


class Layout(NamedTuple):
    """Where the images of each split are.

    prefixes: of each split, what the names of its images begin with; all is "train" where no folder is that of a split.
    flat: the folders that are called as a split is and whose images are in no class folders.
    """

    prefixes: dict[str, str]
    flat: dict[str, str]


class _Place(NamedTuple):
    """A folder that holds folders of splits: its path ("" or "a/b/"), and how many images are below those."""

    path: str
    images: int


def around(
    files: Sequence[str],
    others: Collection[str],
    folders: Sequence[str],
    where: str,
    labelled: bool,
    classes: Collection[str],
) -> str:
    """Return the path of the folders around everything, "" for none; files beside them that are no images are passed.

    So a data set stays one whose author put a LICENSE beside its only folder. Folders of splits may lie deeper, with
    fewer images beside them than they hold.

    Args:
      files, folders: names.
      others: of files that are no images.
      where: the data, for the message.
      labelled: splits have class folders.
      classes: names that are no splits, because they are classes.

    Raises:
      UserError: there are folders of splits in several places.
    """
    shows = [name for name in files if name not in others]
    places = _places(shows, labelled, classes)
    inside = sum(place.images for place in places)
    if places and (2 * inside > len(shows) or "" in (place.path for place in places)):
        if len(places) > 1:
            raise UserError(
                f"{where} has folders of splits in several places, {_listed(place.path for place in places)}; name one "
                "of them as the data."
            )
        return places[0].path
    return _wrapping(files, others, folders, classes)


def find(files: Sequence[str], split: str, where: str, classes: Collection[str]) -> Layout:
    """Find the splits of images in class folders.

    Args:
      files: names of the image files, from within the folder around everything.
      split: the one asked for.
      where, classes: as for `around`.

    Raises:
      UserError: what is there may be understood in several ways, or has no class folders.
    """
    direct, nested = _tops(files)
    named = {name for name in {*direct, *nested} if _is_split(name, classes)}
    flat = {name: direct[name] for name in named - set(nested)}
    parted = named & set(nested)  # into classes
    beside = sorted((set(direct) - set(nested) if parted else {*direct, *nested}) - named)
    if named and beside and splits.kind_of(split) and "train" not in map(splits.kind_of, parted):
        one = sorted(named)[0]
        every = ";".join(map(shown, [*beside, one][:_SHOWN]))
        raise UserError(
            f"{where} has the folders {_listed(beside)} beside {_listed(sorted(named))}, which is what a split is "
            f"called: if it is one, move the others into train/; if {shown(one)} is a class, name all classes in "
            f"order, classes='{every}{';…' if len(beside) >= _SHOWN else ''}'."
        )
    if parted:
        return Layout({name: f"{name}/" for name in nested}, flat)
    if flat:
        raise UserError(f"{where} has images in {_listed(sorted(flat))} but no class folders there; {FORM}.")
    _require_classes(files, where, classes)
    return Layout({"train": ""}, {})


def require_class_folders(layout: Layout, split: str, hold_out: float | int, where: str) -> None:
    """Stop where the images of the split that is asked for are there, but in no class folders.

    Raises:
      UserError: they are; or those of "val", of which a share of "train" would take the place.
    """
    kinds = {splits.kind_of(split)}
    if splits.is_held_out(split, layout.prefixes, hold_out):
        kinds.add("val")
    if splits.kind_of(split) in map(splits.kind_of, layout.prefixes):
        kinds.discard(splits.kind_of(split))
    for name, example in sorted(layout.flat.items()):
        if splits.kind_of(name) in kinds - {None}:
            mend = f"sort them into {shown(name)}/CLASS/"
            if splits.kind_of(name) == "val":
                mend += ", or move them away for a share of train to be held out instead (hold_out)"
            raise UserError(
                f"{where} has images in {shown(name)} but no class folders there ({shown(example)}); {mend}."
            )


def _places(files: Iterable[str], labelled: bool, classes: Collection[str]) -> list[_Place]:
    """Find the folders that hold folders of splits, the least deep ones."""
    found: dict[str, int] = collections.Counter()
    for folder, count in collections.Counter(map(posixpath.dirname, files)).items():
        parts = folder.split("/")
        first = next((i for i, part in enumerate(parts) if _is_split(part, classes)), None)
        if first is not None and (not labelled or len(parts) > first + 1):
            found["".join(f"{part}/" for part in parts[:first])] += count
    least = min((path.count("/") for path in found), default=0)
    return [_Place(path, count) for path, count in sorted(found.items()) if path.count("/") == least]


def _wrapping(files: Sequence[str], others: Collection[str], folders: Sequence[str], classes: Collection[str]) -> str:
    """Return the path of the single folders around everything."""
    path = ""
    while True:
        inner, places = inside(files, path), inside(folders, path)
        counted = [*places, *(name for name in inner if "/" in name or path + name not in others)]
        tops = {name.partition("/")[0] for name in counted}
        top = next(iter(tops), "")
        below = inside(inner, f"{top}/")
        direct = any("/" not in name and f"{path}{top}/{name}" not in others for name in below)
        if len(tops) != 1 or _is_split(top, classes) or direct or not any("/" in name for name in below):
            return path
        path += f"{top}/"


def _require_classes(files: Sequence[str], where: str, classes: Collection[str]) -> None:
    """Stop where the folders that would be classes hold folders of splits.

    Raises:
      UserError: at least half of them do.
    """
    folders = {posixpath.dirname(name) for name in files} - {""}
    tops = {folder.partition("/")[0] for folder in folders}
    divided = {top: inner for top, _, inner in (folder.partition("/") for folder in sorted(folders)) if inner}
    divided = {top: inner for top, inner in divided.items() if _is_split(inner.partition("/")[0], classes)}
    if divided and 2 * len(divided) >= len(tops):
        listed = _listed(f"{top}/{inner}" for top, inner in divided.items())
        raise UserError(f"{where} has folders of splits within those of classes, {listed}; {FORM}.")


def _tops(files: Iterable[str]) -> tuple[dict[str, str], dict[str, str]]:
    """Return the top folders that hold images themselves, and those that do deeper, each with an example."""
    direct, nested = dict[str, str](), dict[str, str]()
    for name in files:
        top, _, rest = name.partition("/")
        if rest:
            (nested if "/" in rest else direct).setdefault(top, name)
    return direct, nested


def inside(names: Iterable[str], path: str) -> list[str]:
    """Return names as seen from within a folder, of what is in it."""
    return [name[len(path) :] for name in names if name.startswith(path) and len(name) > len(path)]


def splits_anywhere(files: Sequence[str], classes: Collection[str] = ()) -> dict[str, str]:
    """Return what the names of each split begin with, for images that need no class folders."""
    tops = {name.partition("/")[0] for name in files if "/" in name}
    return {top: f"{top}/" for top in tops} if any(_is_split(top, classes) for top in tops) else {"train": ""}


def same_split(found: str, prefixes: Mapping[str, str]) -> list[str]:
    """Return the prefixes of the other folders that are called as the split `found` is, in another spelling."""
    kind = splits.kind_of(found)
    return [path for name, path in prefixes.items() if kind and name != found and splits.kind_of(name) == kind]


def _is_split(name: str, classes: Collection[str]) -> bool:
    return splits.kind_of(name) is not None and name not in classes


def _listed(names: Iterable[str]) -> str:
    every = [shown(name) for name in names]
    return ", ".join(every[:_SHOWN]) + (f" and {len(every) - _SHOWN} more" if len(every) > _SHOWN else "")

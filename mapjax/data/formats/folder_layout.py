"""Where the splits and the classes of a folder of images are, told from names alone."""

import collections
import posixpath
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from mapjax.data import splits
from mapjax.errors import NoSuchSplit, UserError
from mapjax.runtime.names import shown

FORM = "it needs DIR/train/CLASS/*.jpg or DIR/CLASS/*.jpg"

_NO_CLASS = re.compile("|images?|imgs?|pictures|photos|jpe?gs?|pngs?|data", re.IGNORECASE)  # folders called so
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


def around(files: Sequence[str], where: str, labelled: bool, classes: Collection[str]) -> str:
    """Return the path of the folders around all images, "" for none.

    Folders of splits may have images beside them, if those are fewer.

    Args:
      files: names of the image files.
      where: the data, for the message.
      labelled: splits have class folders.
      classes: names that are no splits, because they are classes.

    Raises:
      UserError: there are folders of splits in several places.
    """
    places = _places(files, labelled, classes)
    inside = sum(place.images for place in places)
    if places and (2 * inside > len(files) or "" in (place.path for place in places)):
        if len(places) > 1:
            raise UserError(
                f"{where} has folders of splits in several places, {_listed(place.path for place in places)}; name one "
                "of them as the data."
            )
        return places[0].path
    return _wrapping(files, classes)


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
    tops = {*direct, *nested}
    meant = {name: name for name in tops if _is_split(name, classes)} or _affixed(tops - set(classes), where)
    named = set(meant)
    flat = {meant[name]: direct[name] for name in named - set(nested)}
    parted = named & set(nested)  # into classes
    beside = sorted((set(direct) - set(nested) if parted else {*direct, *nested}) - named)
    trains = any(splits.kind_of(meant[name]) == "train" for name in parted)
    if named and beside and splits.kind_of(split) and not trains:
        one = sorted(named)[0]
        every = ";".join(map(shown, [*beside, one][:_SHOWN]))
        raise UserError(
            f"{where} has the folders {_listed(beside)} beside {_listed(sorted(named))}, which is what a split is "
            f"called: if it is one, move the others into train/; if {shown(one)} is a class, name all classes in "
            f"order, classes='{every}{';…' if len(beside) >= _SHOWN else ''}'."
        )
    if parted:
        found = {name: _within(name, below) for name, below in _folders_below(files).items() if name in nested}
        flat |= {meant[name]: nested[name] for name, (_, classed) in found.items() if name in meant and not classed}
        prefixes = {meant.get(name, name): path for name, (path, classed) in found.items() if classed}
        return Layout(prefixes, flat)
    if flat:
        raise UserError(f"{where} has images in {_listed(sorted(flat))} but no class folders there; {FORM}.")
    _require_classes(files, where, classes)
    return Layout({"train": ""}, {})


def require_class_folders(layout: Layout, split: str, hold_out: float | int, where: str) -> None:
    """Stop where the images of the split that is asked for are there, but in no class folders.

    Raises:
      NoSuchSplit: they are; or those of "val", of which a share of "train" would take the place.
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
            raise NoSuchSplit(
                f"{where} has images in {shown(name)} but no class folders there ({shown(example)}); {mend}."
            )


def _places(files: Iterable[str], labelled: bool, classes: Collection[str]) -> list[_Place]:
    """Find the folders that hold folders of splits, the least deep ones."""
    found, whole = collections.Counter[str](), set[str]()
    for folder, count in collections.Counter(map(posixpath.dirname, files)).items():
        parts = folder.split("/")
        first = next((i for i, part in enumerate(parts) if _is_split(part, classes)), None)
        if first is not None:
            path = "".join(f"{part}/" for part in parts[:first])
            found[path] += count
            if not labelled or len(parts) > first + 1:
                whole.add(path)
    least = min((path.count("/") for path in whole), default=0)
    return [_Place(path, found[path]) for path in sorted(whole) if path.count("/") == least]


def _wrapping(files: Sequence[str], classes: Collection[str]) -> str:
    """Return the path of the single folders around all images; a folder that holds images itself is none of them."""
    folders = {posixpath.dirname(name) for name in files}
    path = ""
    while len(tops := {folder[len(path) :].partition("/")[0] for folder in folders}) == 1:
        top = next(iter(tops))
        if not top or path + top in folders or _is_split(top, classes):
            break
        path += f"{top}/"
    return path


def _affixed(tops: Collection[str], where: str) -> dict[str, str]:
    """Return the split that each folder means where their names have one more word in common: "seg_train", "seg_test".

    Raises:
      UserError: there are several such words: "train_cat", "test_cat", "train_dog", "test_dog".
    """
    found = collections.defaultdict[str, dict[str, list[str]]](dict)
    for top in sorted(tops):
        if (said := splits.with_more(top)) is not None:
            found[said[0]].setdefault(said[1], []).append(top)
    groups = [group for group in found.values() if "train" in group and len(group) > 1]
    meant = [(kind, top) for group in groups for kind, named in group.items() for top in named]
    if len(meant) > len(dict(meant)):
        listed = _listed(top for _, top in meant)
        raise UserError(f"{where} has the folders {listed}, which name a split and a class at once; {FORM}.")
    return {top: kind for kind, top in meant}


def _within(top: str, folders: Iterable[str]) -> tuple[str, bool]:
    """Return the path of the folder of a split that has the class folders, and whether there are any.

    Args:
      top: the folder's name; it may be there twice, as "train/train/", or have all in one folder, "train/images/".
      folders: those below it that hold images.
    """
    path, below = f"{top}/", set(folders)
    while len(heads := {folder.partition("/")[0] for folder in below}) == 1 and (head := next(iter(heads))):
        inner = {folder.partition("/")[2] for folder in below}
        again = head == top or (splits.kind_of(head) is not None and splits.kind_of(head) == splits.kind_of(top))
        if not again and not (_NO_CLASS.fullmatch(head) and "" not in inner):
            break
        path, below = f"{path}{head}/", inner
    return path, not all(_NO_CLASS.fullmatch(folder) for folder in below)


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


def _folders_below(files: Iterable[str]) -> dict[str, set[str]]:
    """Return the folders that hold images, by the top folder that they are in; "" for itself."""
    found = collections.defaultdict[str, set[str]](set)
    for folder in set(map(posixpath.dirname, files)):
        top, _, rest = folder.partition("/")
        found[top].add(rest)
    return found


def inside(names: Iterable[str], path: str) -> list[str]:
    """Return names as seen from within a folder, of what is in it."""
    return [name[len(path) :] for name in names if name.startswith(path) and len(name) > len(path)]


def splits_anywhere(files: Sequence[str], where: str) -> dict[str, str]:
    """Return what the names of each split begin with, for images that need no class folders; errors as for `find`."""
    tops = {name.partition("/")[0] for name in files if "/" in name}
    meant = {top: top for top in tops if _is_split(top, ())} or _affixed(tops, where)
    return {meant.get(top, top): f"{top}/" for top in tops} if meant else {"train": ""}


def same_split(found: str, prefixes: Mapping[str, str]) -> list[str]:
    """Return the prefixes of the other folders that are called as the split `found` is, in another spelling."""
    kind = splits.kind_of(found)
    return [path for name, path in prefixes.items() if kind and name != found and splits.kind_of(name) == kind]


def _is_split(name: str, classes: Collection[str]) -> bool:
    return splits.kind_of(name) is not None and name not in classes


def _listed(names: Iterable[str]) -> str:
    every = [shown(name) for name in names]
    return ", ".join(every[:_SHOWN]) + (f" and {len(every) - _SHOWN} more" if len(every) > _SHOWN else "")

"""Names that lists give for files, found among the files there are, however either is spelled.

Lists are written on other systems than the one that reads them: with backslashes, with spaces as %20, with an accent as
one sign or as two (NFC and NFD), with other capitals in .JPG, with another extension or none.
"""

import difflib
import functools
import os
import posixpath
import re
import unicodedata
import urllib.parse
from collections.abc import Collection, Iterable, Mapping

from mapjax.data.images import EXTENSIONS
from mapjax.runtime.names import encoded, shown

_MOST_COMPARED = 20_000  # names that are gone through for the nearest one


def match(written: str, names: Collection[str], extensions: tuple[str, ...] = EXTENSIONS) -> str | None:
    """Return the one of some names that a written one means; None where none is, or where several may be.

    A name as it is written goes before one that is only spelled otherwise, and that before one that lacks its
    extension, or has another one of the same kind of file.

    Args:
      written: a name without folders.
      names: those there are.
      extensions: of the files that are meant, in lower case; () where names have none.

    Example:
      >>> from mapjax.data import lookup
      >>> [lookup.match(name, ["a b.jpg", "c.PNG"]) for name in ("a%20b.JPG", "A b.jpg", "c", "c.jpg", "d.jpg")]
      ['a b.jpg', 'a b.jpg', 'c.PNG', 'c.PNG', None]
    """
    return Names(names, extensions).find(written)


def real(files: Iterable[str]) -> list[str]:
    """Return where the paths of files lead to through links, so that those of one file are one."""
    folder = functools.cache(os.path.realpath)
    found = (os.path.join(folder(os.path.dirname(file)), os.path.basename(file)) for file in files)
    return [os.path.realpath(file) if os.path.islink(file) else file for file in found]


class Files:
    """The files below a folder, found by the names that a list gives them; folders are listed once each."""

    def __init__(self, root: str | os.PathLike, extensions: tuple[str, ...] = EXTENSIONS):
        """Take the folder, and the extensions of the files that are meant."""
        self._root = os.fspath(root)
        self._names = functools.cache(self._list)
        self._spelled = functools.cache(lambda folder: Names(self._names(folder)[0], extensions))
        self._spelled_folders = functools.cache(lambda folder: Names(self._names(folder)[1]))

    def find(self, written: str) -> str | None:
        """Return the path, below the folder, of the file that is meant by a path in a list; None where none is.

        Nothing above the folder is found by a path that is spelled otherwise.
        """
        folder, name = posixpath.split(written)
        if name in self._names(folder)[0]:
            return written
        for path in dict.fromkeys((written, written.replace("\\", "/"), _unquoted(written).replace("\\", "/"))):
            parts = [part for part in path.split("/") if part not in ("", ".")]
            if parts and ".." not in parts and not path.startswith("/") and (found := self._descend(parts)) is not None:
                return found
        return None

    def nearest(self, written: str) -> str | None:
        """Return the path of the file that is named most like one that is not there; None where none is alike."""
        parts = [part for part in _unquoted(written).replace("\\", "/").split("/") if part not in ("", ".", "..")]
        for start in range(len(parts)):  # perhaps the list was written from another folder
            if start and (found := self._descend(parts[start:])) is not None:
                return found
        folder = self._deepest(parts[:-1])
        near = _closest(parts[-1] if parts else "", self._names(folder)[0])
        return near if near is None else posixpath.join(folder, near)

    def hint(self, written: str) -> str:
        """Return " (is 'x' meant?)" for the nearest file, or "" where none is near."""
        near = self.nearest(written)
        return "" if near is None else f" (is {shown(near)!r} meant?)"

    def _descend(self, parts: list[str]) -> str | None:
        folder = self._folder(parts[:-1])
        name = None if folder is None else self._spelled(folder).find(parts[-1])
        return None if folder is None or name is None else posixpath.join(folder, name)

    def _folder(self, parts: Iterable[str]) -> str | None:
        """Return the path of the folder that is meant."""
        folder = ""
        for part in parts:
            if (name := self._spelled_folders(folder).find(part)) is None:
                return None
            folder = posixpath.join(folder, name)
        return folder

    def _deepest(self, parts: list[str]) -> str:
        """Return the path of the deepest folder there is on the way."""
        ways = (self._folder(parts[:end]) for end in range(len(parts), 0, -1))
        return next((way for way in ways if way is not None), "")

    def _list(self, folder: str) -> tuple[frozenset[str], frozenset[str]]:
        """List the files and the folders in a folder; nothing where there is none."""
        try:
            with os.scandir(os.path.join(self._root, folder)) as found:
                entries = [(entry.name, os.path.isdir(entry.path)) for entry in found]
        except (OSError, ValueError):  # no folder, or a name that cannot be one
            return frozenset(), frozenset()
        return frozenset(n for n, inner in entries if not inner), frozenset(n for n, inner in entries if inner)


class Names:
    """Names that are found in other spellings too; compared only when one is not there as it is written."""

    def __init__(self, names: Collection[str], extensions: tuple[str, ...] = ()):
        """Take the names, and the extensions of the files that are meant; () where names have none."""
        self._names, self._extensions = names, extensions

    def find(self, written: str) -> str | None:
        """Return the one that is meant; None where none is, or where several may be."""
        if written in self._names:
            return written
        folded = _folded(written)
        found = self._folded.get(folded)
        if found is None and self._extensions:
            stem = posixpath.splitext(folded)[0] if folded.endswith(self._extensions) else folded
            found = self._stems.get(stem)
        return found[0] if found and len(found) == 1 else None

    @functools.cached_property
    def _folded(self) -> dict[str, list[str]]:
        return _grouped((_folded(name), name) for name in self._names)

    @functools.cached_property
    def _stems(self) -> dict[str, list[str]]:
        every = ((folded, name) for folded, names in self._folded.items() for name in names)
        return _grouped((posixpath.splitext(one)[0], name) for one, name in every if one.endswith(self._extensions))


def values(keys: Iterable[str], known: Mapping[str, str]) -> dict[str, str]:
    """Return the values of keys that may be spelled otherwise than in a mapping; those that are not there are left out.

    Example:
      >>> from mapjax.data import lookup
      >>> lookup.values(["A", "b"], {"a": "a.png", "c": "c.png"})
      {'A': 'a.png'}
    """
    names = Names(known)
    return {key: known[found] for key in keys if (found := names.find(key)) is not None}


def _grouped(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for key, value in pairs:
        groups.setdefault(key, []).append(value)
    return groups


def _folded(name: str) -> str:
    """Return what all spellings of a name have in common."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", _unquoted(name)).strip().casefold())


def _unquoted(name: str) -> str:
    """Undo %20 and its like, and put bytes together that are UTF-8 though Python was told otherwise (LC_ALL=C)."""
    if "%" in name:
        name = re.sub("(?:%[0-9A-Fa-f]{2})+", lambda found: _bytes(found[0]), name)
    return name if name.isascii() else encoded(name).decode("utf-8", "surrogateescape")


def _bytes(quoted: str) -> str:
    return urllib.parse.unquote(quoted, errors="surrogateescape")


def _closest(name: str, names: Collection[str]) -> str | None:
    """Return the name that is most alike without its extension."""
    if len(names) > _MOST_COMPARED:
        return None
    stems = {posixpath.splitext(known)[0]: known for known in sorted(names, reverse=True)}
    near = difflib.get_close_matches(posixpath.splitext(name)[0], list(stems), n=1, cutoff=0.6)
    return stems[near[0]] if near else None

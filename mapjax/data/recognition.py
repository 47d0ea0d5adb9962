"""Which files are images: those that are called so, and of any other name those that begin as one."""

import contextlib
import os
from collections.abc import Callable, Iterable, Sequence

from mapjax.data import headers
from mapjax.data.images import EXTENSIONS
from mapjax.errors import UserError

NO_IMAGE = "not an image file"
# Beside each image there may be one of these, so that it would take long to look into them all.
_NEVER = (".txt", ".xml", ".json", ".csv", ".yaml", ".yml", ".md", ".html", ".npy", ".npz", ".mat", ".pkl", ".py")
# Begin as TIFFs, of which decoders find the small preview.
_RAW = (".dng", ".nef", ".nrw", ".cr2", ".arw", ".sr2", ".srf", ".srw", ".pef", ".3fr", ".iiq", ".erf", ".kdc", ".dcr")


def others(names: Iterable[str], begin: Callable[[str], bytes]) -> dict[str, str]:
    """Return the files that are no images, or of a kind that no decoder here reads, each with that as the reason.

    Args:
      names: of files.
      begin: name → its first bytes (headers.BEGIN), or nothing for what cannot be read; asked for few.

    Example:
      >>> from mapjax.data import recognition
      >>> content = {"a.jfif": b"\\xff\\xd8\\xff", "b.heic": b"\\0\\0\\0\\x18ftypheic", "c": b"words"}
      >>> recognition.others(["a.jpg", *content], content.__getitem__)
      {'b.heic': 'HEIF image, which no decoder here reads', 'c': 'not an image file'}
    """
    found = {}
    for name in names:
        if not (lower := name.lower()).endswith(EXTENSIONS) and (reason := _reason(lower, name, begin)):
            found[name] = reason
    return found


def of_folder(folder: str | os.PathLike) -> Callable[[str], bytes]:
    """Return what gives the first bytes of files below a folder."""

    def begin(name: str) -> bytes:
        with contextlib.suppress(UserError, OSError), headers.open_file(os.path.join(folder, name)) as file:
            return file.read(headers.BEGIN)
        return b""

    return begin


def by_reason(found: dict[str, str], names: Iterable[str] | None = None) -> dict[str, list[str]]:
    """Group what `others` found, all or some names, by its reason; the key of what is no image is always there."""
    groups: dict[str, list[str]] = {NO_IMAGE: []}
    for name in found if names is None else names:
        groups.setdefault(found[name], []).append(name)
    return groups


def in_folder(folder: str | os.PathLike, names: Sequence[str]) -> tuple[list[str], dict[str, list[str]]]:
    """Return which of the names in a folder are images, and the images that no decoder here reads, by reason."""
    no_images = others(names, of_folder(folder))
    unread = by_reason(no_images)
    del unread[NO_IMAGE]
    return [name for name in names if name not in no_images], unread


def _reason(lower: str, name: str, begin: Callable[[str], bytes]) -> str:
    """Say why a file is none of our images, or nothing."""
    if lower.endswith(_NEVER):
        return NO_IMAGE
    first = begin(name)
    kind = headers.kind_of(first)
    if not kind:
        return NO_IMAGE
    if kind == "TIFF" and lower.endswith(_RAW):
        return "raw image of a camera, which no decoder here reads"
    return "" if headers.is_readable(first) else f"{kind} image, which no decoder here reads"

"""The classes that published weights answer with, and which of them the folders and categories of a data set are.

`classes/NAME.txt` has a line a class, in the order of the network's outputs: its identifier and its name. ImageNet's
identifiers are WordNet's; COCO's are its category ids, with gaps (1 to 90 for 80 classes); Pascal VOC's are the levels
of its masks, 0 the background.
"""

import functools
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from mapjax.errors import UserError, near

NAMES = ("imagenet", "coco", "voc")
_SHOWN = 3  # classes of a data set that a message names


class Labels(NamedTuple):
    """Classes in the order of a network's outputs: their names and their identifiers, each without repetitions."""

    names: tuple[str, ...]
    ids: tuple[str, ...]


@functools.cache
def read(name: str) -> Labels:
    """Read the list "imagenet" (1000 classes), "coco" (80) or "voc" (21 with the background)."""
    path = pathlib.Path(__file__).with_name("classes") / f"{name}.txt"
    rows = [line.split(" ", 1) for line in path.read_text(encoding="utf-8").splitlines()]
    return Labels(tuple(name for _, name in rows), tuple(identifier for identifier, _ in rows))


def of(classes: Sequence[str]) -> Labels | None:
    """Give the published list that has exactly these names in this order; None for classes of one's own."""
    return next((read(name) for name in NAMES if read(name).names == tuple(classes)), None)


def match(given: Sequence[str], known: Labels, where: str) -> tuple[str, ...]:
    """Give the known name of each class of a data set, whichever way it is written.

    A class is found by its name (capitals, "_" and "-" do not matter, where only one is written so), by its identifier,
    alone or before a name as in "n01440764_tench", or where all classes are numbers that are no identifiers, by its
    index from 0. Several may be one. A number before a name does not count: it is most likely the data set's own.

    Args:
      given: names of a data set's classes, such as those of its folders.
      known: the list they are looked up in.
      where: the data set, for the message.

    Raises:
      UserError: some are none of the known ones (the first few, and the near names), one may be several, or its name
        is that of another class than its identifier.
    """
    alike: dict[str, list[str]] = {}
    for name in known.names:
        alike.setdefault(_plain(name), []).append(name)
    found = [_find(one, known, alike, where) for one in given]
    if None in found and all(one.isdecimal() and int(one) < len(known.names) for one in given):
        return tuple(known.names[int(one)] for one in given)
    strange = [one for one, name in zip(given, found) if name is None]
    if strange:
        shown = "; ".join(f"{one!r}{_near(one, known)}" for one in strange[:_SHOWN])
        more = f" and {len(strange) - _SHOWN} more" if len(strange) > _SHOWN else ""
        raise UserError(
            f"{where}: {len(strange)} of its {len(given)} classes are none of the {len(known.names)} that these "
            f"weights know: {shown}{more}. Name each by the class, its identifier (as {known.ids[0]}) or its index."
        )
    return tuple(name for name in found if name is not None)


def _find(one: str, known: Labels, alike: Mapping[str, Sequence[str]], where: str) -> str | None:
    """Give the known class that a name means; `alike` lists them by their plain names."""
    ids = dict(zip(known.ids, known.names))
    if one in known.names or one in ids:
        return one if one in known.names else ids[one]
    named = alike.get(_plain(one), ())
    first, *rest = re.split(r"[ _-]", one, maxsplit=1)
    if not named and rest and (first.isdecimal() or first in ids):
        named = [rest[0]] if rest[0] in known.names else alike.get(_plain(rest[0]), ())
        if first in ids and not first.isdecimal():
            # WordNet's has more names than the list: "crane" is also a bird's, and what names no class may be one.
            if named and not set(_plain(rest[0]).split()) & set(_plain(ids[first]).split()):
                raise UserError(
                    f"{where}: its class {one!r} has the identifier of {ids[first]!r} and the name of another class; "
                    "leave one of the two."
                )
            return ids[first]
    if len(named) > 1:
        identifiers = (known.ids[known.names.index(name)] for name in named)
        raise UserError(
            f"{where}: its class {one!r} may be {' or '.join(map(repr, named))}; write it so, or by its identifier, "
            f"{' or '.join(identifiers)}."
        )
    return named[0] if named else None


def _plain(name: str) -> str:
    return " ".join(re.split(r"[ _-]+", name.casefold()))


def _near(name: str, known: Labels) -> str:
    """Name the known classes that share a word with a name, or else are written alike; "" where none is."""
    words = set(_plain(name).split())
    alike = [repr(one) for one in known.names if words & set(_plain(one).split())][:_SHOWN]
    if alike:
        return f" (did you mean {' or '.join(alike)}?)"
    hint = near(name, known.names)
    return f" (d{hint[2:]})" if hint.startswith(" Did you mean") else ""

"""What tasks show to people: parts of a report page, and answers to images."""

from collections import Counter
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

SAID = 3  # classes of an image that are told in words


class Section(NamedTuple):
    """A heading, its HTML (escaped already, no scripts), and a sentence of plain text under the heading."""

    title: str
    body: str
    note: str = ""


class Shown(NamedTuple):
    """An answer to one image.

    values: plain ones for JSON.
    drawing: the image with what was found.
    findings: how many things were found.
    said: what they are, in a few words.
    label_map: the class of each pixel, of a segmenter.
    objects: a PNG of the number of each pixel's object, from 1 on, of a detector with masks.
    """

    values: dict[str, Any]
    drawing: UInt8[np.ndarray, "h w 3"]
    findings: int
    said: str
    label_map: UInt8[np.ndarray, "h w"] | None = None
    objects: bytes | None = None


def counted(names: Iterable[str]) -> str:
    """Say names in a line, each once with its number: "2 zebra, umbrella"."""
    parts = [f"{number} {name}" if number > 1 else name for name, number in Counter(names).items()]
    return ", ".join(parts) or "nothing"

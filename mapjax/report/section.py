"""What tasks show to people: parts of a report page, and answers to images."""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8


class Section(NamedTuple):
    """A heading, its HTML (escaped already, no scripts), and a sentence of plain text under the heading."""

    title: str
    body: str
    note: str = ""


class Shown(NamedTuple):
    """An answer to one image: plain values for JSON, a drawing, how many things were found, perhaps a label map."""

    values: dict[str, Any]
    drawing: UInt8[np.ndarray, "h w 3"]
    findings: int
    label_map: UInt8[np.ndarray, "h w"] | None = None

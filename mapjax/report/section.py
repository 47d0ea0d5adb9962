"""A part of a report page."""

from typing import NamedTuple


class Section(NamedTuple):
    """A heading, its HTML (escaped already, no scripts), and a sentence of plain text under the heading."""

    title: str
    body: str
    note: str = ""

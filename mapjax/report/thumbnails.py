"""Small images for a page, with captions and bars: what a classifier was shown and what it said."""

import base64
import html
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from mapjax.data import images
from mapjax.data.source import Source
from mapjax.errors import UserError
from mapjax.report import draw

SIDE = 160  # pixels
SMALL = 64  # an image up to this long is kept to the pixel and shown enlarged without smoothing
BARS = 3


class Card(NamedTuple):
    """An image to show: its record, a caption, what stands below it (HTML both), and whether the answer was right."""

    index: int
    caption: str
    below: str = ""
    right: bool | None = None


def thumbnails(source: Source, indexes: Iterable[int], side: int = SIDE) -> dict[int, str]:
    """Make <img> elements of records, at most `side` pixels long; those that cannot be read are not in it."""
    found: dict[int, str] = {}
    for index in dict.fromkeys(indexes):
        try:
            image = images.read(source.records[index]["image"])
        except UserError:
            continue
        small = max(image.shape) <= SMALL
        url = _png(image) if small else draw.jpeg(image, longest=side)
        found[index] = f'<img class="thumbnail{" pixelated" if small else ""}" alt="" loading="lazy" src="{url}"/>'
    return found


def gallery(source: Source, cards: Sequence[Card]) -> tuple[str, int]:
    """Lay cards out in a grid; says how many of their images could not be read and were left out."""
    made = thumbnails(source, [card.index for card in cards])
    shown = [_figure(source, card, made[card.index]) for card in cards if card.index in made]
    body = f'<div class="examples">{"".join(shown)}</div>' if shown else "<p>No image to show.</p>"
    return body, len({card.index for card in cards}) - len(made)


def bars(names: Sequence[str], probabilities: Float[np.ndarray, " c"], truth: Sequence[int], most: int = BARS) -> str:
    """List the most probable classes, each with a bar as long as its probability; classes of the `truth` are green."""
    rows = []
    for k in map(int, np.argsort(-probabilities, kind="stable")[:most]):
        value, name = float(probabilities[k]), html.escape(names[k])
        tone = "good" if k in truth else "mute"
        style = f'style="width:{100 * value:.1f}%"'
        rows.append(f'<li title="{name}"><i class="{tone}" {style}></i><span>{name}</span><b>{value:.2f}</b></li>')
    return f'<ul class="bars">{"".join(rows)}</ul>'


def evenly(number: int, most: int) -> list[int]:
    """Choose at most `most` of `number` things, evenly spread from the first to the last."""
    return np.unique(np.linspace(0, number - 1, most).astype(int)).tolist() if number else []


def unread(number: int) -> str:
    """Say how many images are missing, as the end of a note; "" for none."""
    return f" {number} could not be read." if number else ""


def _figure(source: Source, card: Card, drawing: str) -> str:
    file = html.escape(str(source.records[card.index]["file"]))
    kind = {True: ' class="right"', False: ' class="wrong"', None: ""}[card.right]
    return f'<figure{kind}>{drawing}<figcaption title="{file}">{card.caption}</figcaption>{card.below}</figure>'


def _png(image: UInt8[np.ndarray, "h w 3"]) -> str:
    data = cv2.imencode(".png", image[..., ::-1])[1]
    return "data:image/png;base64," + base64.b64encode(data.tobytes()).decode("ascii")

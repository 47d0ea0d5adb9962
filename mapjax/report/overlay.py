"""Label maps as images: in their colours, over the photo, and where they are mistaken."""

import base64
import io

import cv2
import numpy as np
import PIL.Image
from jaxtyping import Bool, UInt8

from mapjax.report import draw
from mapjax.stages import VOID

LabelMap = UInt8[np.ndarray, "h w"]
Image = UInt8[np.ndarray, "h w 3"]

_VOID = (24, 27, 33)
_RIGHT, _WRONG = (47, 122, 229), (229, 72, 77)


def palette() -> UInt8[np.ndarray, "256 3"]:
    """Give the colour of every class, and nearly black for VOID."""
    return np.array([draw.colour(k) for k in range(VOID)] + [_VOID], np.uint8)


def coloured(labels: LabelMap) -> Image:
    """Paint a label map."""
    return palette()[labels]


def over(image: Image, labels: LabelMap, strength: float = 0.55) -> Image:
    """Paint a label map over its image, with a bright line between the classes; VOID shows the image."""
    mixed = cv2.addWeighted(image, 1 - strength, coloured(labels), strength, 0)
    painted = np.where((labels == VOID)[..., None], image, mixed)
    painted[_edges(labels)] = 255
    return painted


def errors(image: Image, truth: LabelMap, predicted: LabelMap) -> Image:
    """Show where a prediction is right (blue) and wrong (red) over the grey image; pixels without truth stay dark."""
    grey = np.repeat(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2)
    tone = np.where((truth == predicted)[..., None], np.array(_RIGHT), np.array(_WRONG))
    strength = np.where(truth == predicted, 0.2, 0.75)[..., None]
    shown = grey * (1 - strength) + tone * strength
    shown[truth == VOID] = 0.35 * grey[truth == VOID]
    return shown.astype(np.uint8)


def png(labels: LabelMap) -> bytes:
    """Encode a label map as an indexed PNG: a pixel's value is its class, and viewers show its colour."""
    encoded = PIL.Image.fromarray(labels, "L")
    encoded.putpalette(palette().tobytes())
    stream = io.BytesIO()
    encoded.save(stream, "PNG", optimize=True)
    return stream.getvalue()


def url(labels: LabelMap, *, longest: int) -> str:
    """Encode a label map, shrunk to at most `longest` pixels a side, as a data URL."""
    scale = longest / max(labels.shape)
    if scale < 1:
        size = tuple(max(1, round(side * scale)) for side in labels.shape[::-1])
        labels = cv2.resize(labels, size, interpolation=cv2.INTER_NEAREST)
    return "data:image/png;base64," + base64.b64encode(png(np.ascontiguousarray(labels))).decode("ascii")


def _edges(labels: LabelMap) -> Bool[np.ndarray, "h w"]:
    edge = np.zeros(labels.shape, bool)
    edge[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    edge[:-1] |= labels[:-1] != labels[1:]
    return edge

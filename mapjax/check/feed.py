"""The input pipeline judged: images a second from memory and from JPEGs, which a train step must not wait for."""

import pathlib
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np

from mapjax.data import pipeline
from mapjax.data.source import Records, Source
from mapjax.data.transforms import crops


class Feed(NamedTuple):
    """How many images a second come from a place, decoded, cropped, flipped, and in batches on the device."""

    place: str
    images: float


class _Sizes(NamedTuple):
    """Images: how many, rows and columns of each, the side that is cut out of them, and how many are a batch."""

    count: int
    size: tuple[int, int]
    side: int
    batch: int


_LARGE = _Sizes(256, (375, 500), 224, 256)  # as large as ImageNet's on average
_SMALL = _Sizes(16, (96, 128), 64, 8)


def rates(*, large: bool, seconds: float) -> Iterator[Feed]:
    """Measure both places, by one thread for each core.

    Args:
      large: with images as ImageNet has them; else small ones, for a CPU.
      seconds: that each is watched for, after the first batch.
    """
    sizes = _LARGE if large else _SMALL
    drawn = [_photo(np.random.default_rng(seed), sizes.size) for seed in range(sizes.count)]
    yield Feed("memory", _rate(drawn, sizes, seconds))
    with tempfile.TemporaryDirectory(prefix="mapjax-check") as folder:
        files = [str(pathlib.Path(folder) / f"{number}.jpg") for number in range(sizes.count)]
        for file, image in zip(files, drawn):
            cv2.imwrite(file, image)
        yield Feed("JPEGs", _rate(files, sizes, seconds))


def batches(images: Sequence[Any], *, batch: int, side: int, threads: int) -> Any:
    """Iterate over batches of random crops of images, arrays or paths of files, with one label for all."""

    def record(index: int) -> dict[str, Any]:
        return {"id": index, "file": str(index), "image": images[index], "label": np.int32(0)}

    source = Source("files", "train", ("any",), (1,), Records(len(images), record), {}, "")
    transform = crops.make(size=(side, side), augment={"random_resized_crop": (0.08, 1.0), "flip_horizontal": 0.5})
    return pipeline.train_batches(source, transform, batch=batch, seed=0, threads=threads)


def _rate(images: Sequence[Any], sizes: _Sizes, seconds: float) -> float:
    with batches(images, batch=sizes.batch, side=sizes.side, threads=0) as stream:
        next(stream)
        began, taken, seen = time.perf_counter(), 0.0, 0
        while taken < seconds:
            next(stream)
            seen += sizes.batch
            taken = time.perf_counter() - began
    return seen / taken


def _photo(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """Draw what takes as many bytes as a photo does: smooth, with fine grain."""
    rows, columns = size
    coarse = rng.integers(0, 256, (rows // 16, columns // 16, 3)).astype(np.float32)
    smooth = cv2.resize(coarse, (columns, rows), interpolation=cv2.INTER_CUBIC)
    return np.clip(smooth + rng.normal(0, 8, smooth.shape), 0, 255).astype(np.uint8)

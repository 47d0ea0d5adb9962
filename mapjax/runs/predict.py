"""Images in, answers in their own pixels out; whatever their format and size.

An image is turned upright as a person sees it, put through the evaluation transform and answered in batches of one
shape, so the network compiles once. Boxes come back in the pixels of the upright image. What an answer looks like, as
values and as a drawing, report/views.py says.
"""

import json
import logging
import os
import pathlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

import cv2
import numpy as np
import simplejpeg
from jaxtyping import UInt8

from mapjax.data import box_masks, images, pipeline, recognition
from mapjax.errors import UserError
from mapjax.report import overlay
from mapjax.report.section import Shown
from mapjax.runs import slices, sources
from mapjax.runtime import names as texts
from mapjax.task import Batch, Result, Variables

MOST_JPEG = 65_500  # pixels a side
MOST_BYTES = 230  # of a drawing's name without what follows it, where a file's may have 255
MOST_SAID = 10  # images whose answers are told in words

_log = logging.getLogger(__name__)


class Answer(NamedTuple):
    """An image (upright RGB) and its row of the task's Result."""

    file: str
    image: UInt8[np.ndarray, "h w 3"]
    result: dict[str, np.ndarray]


class Unreadable(NamedTuple):
    """A file that is no image, and why."""

    file: str
    reason: str


class Saved(NamedTuple):
    """What `save` wrote: how many images with how many findings; what the first ones show; what could not be read."""

    images: int
    findings: int
    said: list[str]
    unreadable: list[Unreadable]


def predict(
    answer: Callable[[Variables, Batch], Result],
    variables: Variables,
    files: Iterable[str | os.PathLike | np.ndarray],
    transform: Callable[..., Any],
    *,
    batch: int,
    threads: int = 2,
    cut: slices.Slices | None = None,
) -> Iterator[Answer | Unreadable]:
    """Answer images; yields one item for each file, in order.

    The next batch is decoded while the device works on one, so at most two batches of images are in memory.

    Args:
      answer: evaluate.make_answer(task).
      variables: of the trained task.
      files: images of any size and format that data.images.read knows, arrays too; those answer to the name "array".
      transform: data.transforms.make(…) without augmentation.
      batch: images the device answers at once; a last smaller batch is filled up.
      threads: that decode and transform; 0: one for each core.
      cut: how a detector's images are cut into tiles, which are answered instead; None: they are answered whole.
    """
    if cut is not None:
        tiled = partial(predict, answer, variables, transform=transform, batch=batch, threads=threads)
        yield from _in_slices(tiled, files, cut)
        return
    files = iter(files)
    with ThreadPoolExecutor(threads or pipeline.cores()) as pool:
        waiting: list[Future] = []
        while chunk := list(islice(files, batch)):
            loading = [pool.submit(_load, file, transform) for file in chunk]
            yield from _answers(answer, variables, waiting, batch)
            waiting = loading
        yield from _answers(answer, variables, waiting, batch)


def by_config(
    config: Any,
    answer: Callable[[Variables, Batch], Result],
    variables: Variables,
    files: Sequence[str | os.PathLike | np.ndarray],
) -> Iterator[Answer | Unreadable]:
    """Answer images as the config of a run says: the view of its evaluation, its batch, its threads."""
    transform = sources.make_transform(config, augment=False)
    cut = slices.of(config)
    batch = config.eval_batch if cut else max(min(config.eval_batch, len(files)), 1)
    return predict(answer, variables, files, transform, batch=batch, threads=config.input.threads, cut=cut)


def batch_of(images: Sequence[np.ndarray], transform: Callable[..., Any]) -> Batch:
    """Make one batch of images (uint8, h w 3, RGB), as `predict` does."""
    loaded = [_load(image, transform) for image in images]
    return _stack([item[2] for item in loaded if not isinstance(item, Unreadable)], len(images))


def find_images(path: str | os.PathLike, *, leave_out: str | os.PathLike | None = None) -> list[pathlib.Path]:
    """List an image, or all images in a folder and its subfolders, in order of their names.

    Args:
      path: a file (of any extension), or a folder.
      leave_out: a folder inside it that does not count, such as that of earlier drawings.

    In a folder files are images that are called so, and of any other name those that begin as one; a line tells of
    images that no decoder here reads.

    Raises:
      UserError: there is no such path, or the folder holds no image.
    """
    path = pathlib.Path(path)
    if path.is_file():
        return [path]
    if path.exists() and not path.is_dir():
        raise UserError(f"--images {path} is a pipe, socket or device; give an image or a folder of images.")
    if not path.is_dir():
        raise UserError(f"--images {path}: there is no such file or folder; give an image or a folder of images.")
    apart = None if leave_out is None else pathlib.Path(leave_out).resolve()
    files = sorted(
        os.path.relpath(os.path.join(folder, name), path)
        for folder, _, names in os.walk(path)
        if apart is None or not pathlib.Path(folder).resolve().is_relative_to(apart)
        for name in names
    )
    found, unread = recognition.in_folder(path, files)
    passed = "; ".join(f"{len(where)} × {reason}, such as {where[0]}" for reason, where in unread.items())
    if not found:
        more = f"; passed over: {passed}" if passed else ""
        raise UserError(f"--images {path}: the folder holds no image ({', '.join(images.EXTENSIONS)}, …){more}.")
    if passed:
        _log.warning("passed over in %s: %s", path, passed)
    return sorted(path / name for name in found)


def output_names(files: Sequence[pathlib.Path], root: pathlib.Path) -> list[pathlib.Path]:
    """Name a drawing for each image: its path below `root` with .jpg; a name already given gets -2, -3, …

    Names that differ in upper and lower case only count as the same, as they are on some disks.
    """
    taken: set[str] = set()
    names = []
    for file in files:
        stem = file.relative_to(root) if file.is_relative_to(root) and file != root else pathlib.Path(file.name)
        stem = stem.with_name(_short(stem.stem) + stem.suffix)
        name, number = stem.with_suffix(".jpg"), 1
        while str(name).casefold() in taken:
            number += 1
            name = stem.with_name(f"{stem.stem}-{number}.jpg")
        taken.add(str(name).casefold())
        names.append(name)
    return names


def _short(stem: str) -> str:
    while len(texts.encoded(stem)) > MOST_BYTES:
        stem = stem[:-1]
    return stem


def save(
    found: Iterable[Answer | Unreadable],
    names: Sequence[pathlib.Path],
    out: pathlib.Path,
    show: Callable[..., Shown],
    also: Callable[[dict[str, Any], pathlib.Path], None] | None = None,
) -> Saved:
    """Draw the answer to each image into a folder, and list them in its predictions.json, a line an image.

    A label map is written beside its drawing as NAME-mask.png, a pixel's value its class; so are masks of objects, a
    pixel's value the number of its object in the list, from 1 on, 0 where there is none. What was found is listed even
    if the run is interrupted.

    Args:
      found: what `predict` yields.
      names: of the drawings, one for each item (`output_names`).
      out: the folder, made if need be.
      show: (result, image) -> Shown, as report/views.py has it.
      also: is given each entry of predictions.json, and the name of its drawing.

    Raises:
      UserError: the folder cannot be written.
    """
    rows: list[str] = []
    saved = Saved(0, 0, [], [])
    try:
        out.mkdir(parents=True, exist_ok=True)
        try:
            for item, name in zip(found, names):
                if isinstance(item, Unreadable):
                    saved.unreadable.append(item)
                    continue
                shown = show(item.result, item.image)
                drawn = _write(shown.drawing, out / name)
                size = {"width": item.image.shape[1], "height": item.image.shape[0]}
                row = {"file": item.file, **size, **shown.values, "drawing": drawn.relative_to(out).as_posix()}
                pixels = shown.objects if shown.label_map is None else overlay.png(shown.label_map)
                if pixels is not None:
                    mask = drawn.with_name(f"{drawn.stem}-mask.png")
                    mask.write_bytes(pixels)
                    row["mask"] = mask.relative_to(out).as_posix()
                if len(saved.said) < MOST_SAID:
                    saved.said.append(f"{texts.shown(item.file)}: {shown.said}")
                rows.append(json.dumps(row, ensure_ascii=False))
                if also is not None:
                    also(row, name)
                saved = saved._replace(images=saved.images + 1, findings=saved.findings + shown.findings)
        finally:
            text = "[\n" + ",\n".join(rows) + "\n]\n"
            (out / "predictions.json").write_text(text, encoding="utf-8", errors=texts.JSON)
    except OSError as error:
        raise UserError(f"--out {out} cannot be written ({error.strerror}); name another folder.") from error
    return saved


def _write(image: UInt8[np.ndarray, "h w 3"], path: pathlib.Path) -> pathlib.Path:
    """Write a drawing; as PNG where it is longer than a JPEG may be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if max(image.shape) <= MOST_JPEG:
        path.write_bytes(simplejpeg.encode_jpeg(image, 92, "RGB", "444"))
        return path
    path = path.with_suffix(".png")
    path.write_bytes(cv2.imencode(".png", image[..., ::-1])[1].tobytes())
    return path


def _load(
    source: str | os.PathLike | np.ndarray, transform: Callable[..., Any]
) -> tuple[str, np.ndarray, Batch] | Unreadable:
    file = _file_of(source)
    try:
        image = images.read(source)
    except UserError as error:
        return Unreadable(file, str(error))
    record = {"id": 0, "file": file, "image": image, "size": np.array(image.shape[:2], np.int32)}
    return file, image, transform(record, np.random.default_rng(0))


def _in_slices(
    answered: Callable[..., Iterator[Any]], files: Iterable[str | os.PathLike | np.ndarray], cut: slices.Slices
) -> Iterator[Answer | Unreadable]:
    """Answer images by their tiles, which follow one another through batches of one size."""
    waiting: deque[tuple[Answer | Unreadable, list[Any]]] = deque()  # each image, and its tiles' corners

    def tiles() -> Iterator[np.ndarray]:
        for source in files:
            file = _file_of(source)
            try:
                image = images.read(source)
            except UserError as error:
                waiting.append((Unreadable(file, str(error)), []))
                continue
            size: Any = image.shape[:2]
            corners = slices.corners_of(size, cut)
            waiting.append((Answer(file, image, {}), corners))
            yield from (image[top:bottom, left:right] for left, top, right, bottom in corners)

    found: list[Result] = []
    for one in answered(tiles()):
        while isinstance(waiting[0][0], Unreadable):
            yield waiting.popleft()[0]
        found.append(one.result)
        item, corners = waiting[0]
        if len(found) == len(corners):
            waiting.popleft()
            yield item._replace(result=slices.merged(found, corners, cut))
            found = []
    yield from (item for item, _ in waiting)


def _file_of(source: str | os.PathLike | np.ndarray) -> str:
    return "array" if isinstance(source, np.ndarray) else os.fspath(source)


def _answers(
    answer: Callable[[Variables, Batch], Result], variables: Variables, loading: list[Future], batch: int
) -> Iterator[Answer | Unreadable]:
    """Answer one batch; unreadable files take no row of it."""
    loaded = [future.result() for future in loading]
    examples = [item[2] for item in loaded if not isinstance(item, Unreadable)]
    rows = iter(range(len(examples)))
    result: Result = {}
    if examples:
        stacked = _stack(examples, batch)
        result = box_masks.finished(_fetch(answer(variables, stacked)), stacked["size"])
    for item in loaded:
        if isinstance(item, Unreadable):
            yield item
            continue
        row = next(rows)
        yield Answer(item[0], item[1], {name: values[row] for name, values in result.items()})


def _stack(examples: Sequence[Batch], batch: int) -> Batch:
    """Stack examples and fill the batch up with the last one, masked out."""
    filled = [*examples, *[examples[-1]] * (batch - len(examples))]
    stacked = pipeline.stack(filled)
    rows = np.arange(batch, dtype=np.int32)
    return {**stacked, "index": rows, "mask": rows < len(examples)}


def _fetch(result: Result) -> dict[str, np.ndarray]:
    return {name: np.asarray(value) for name, value in result.items()}

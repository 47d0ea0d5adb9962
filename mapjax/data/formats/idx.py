"""IDX files, as MNIST, Fashion-MNIST and their like have them: `train-images-idx3-ubyte`, maybe with `.gz`, and labels.

`t10k-*` is the split "test"; any other name in front is a split by that name. Debian's `dataset-fashion-mnist` puts
its files below `/usr/share/datasets/fashion-mnist`.
"""

import hashlib
import math
import pathlib
import re
import zlib
from collections.abc import Sequence

import numpy as np

from mapjax.config import regular
from mapjax.data import labelled, splits, unpacking
from mapjax.data.source import Source
from mapjax.errors import UserError

ABOUT = "idx:DIR (labels)"

_IMAGES = re.compile(r"(?P<split>.+)-images[-.]idx3-ubyte(\.gz)?")
_UBYTE = 0x08  # the type code of a file of bytes
_GZIP = 16 | zlib.MAX_WBITS


class Grey(Sequence[np.ndarray]):
    """Grey images (n h w), each given as RGB (h w 3)."""

    def __init__(self, pixels: np.ndarray):
        """Take the images, uint8."""
        self.pixels = pixels

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> np.ndarray:  # pyright: ignore[reportIncompatibleMethodOverride]
        return np.repeat(self.pixels[index][..., None], 3, axis=-1)


def make(
    *,
    split: str,
    seed: int = 0,
    path: str,
    classes: str | Sequence[str] | None = None,
    hold_out: float | int = 0.1,
) -> Source:
    """Read one split of a folder of IDX files into memory.

    Args:
      split: "train", "test", …; "val" is held out of "train" where there is none.
      seed: of the held-out part.
      path: the folder.
      classes: their names in order; by default the lines of `classes.txt` in the folder, else the labels themselves.
      hold_out: share of each class of "train" that becomes "val"; 0 for none.

    Raises:
      UserError: no such files or split, a file that is cut short or of another kind, or a label outside the list.

    Example:
      >>> import pathlib, tempfile
      >>> import numpy as np
      >>> from mapjax.data.formats import idx
      >>> arrays = {"images-idx3": np.zeros((2, 4, 4), np.uint8), "labels-idx1": np.array([0, 1], np.uint8)}
      >>> with tempfile.TemporaryDirectory() as path:
      ...     for name, array in arrays.items():
      ...         head = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes()
      ...         _ = (pathlib.Path(path) / f"train-{name}-ubyte").write_bytes(head + array.tobytes())
      ...     source = idx.make(split="train", path=path, hold_out=0)
      ...     source.classes, source.records[1]["image"].shape
      (('0', '1'), (4, 4, 3))
    """
    where = f"idx:{path}"
    root = pathlib.Path(path)
    if not root.is_dir():
        raise UserError(f"{path} is not a folder: --data idx:DIR needs one with train-images-idx3-ubyte and its like.")
    files = _files(root)
    found, part = splits.locate(split, files, where, hold_out)
    pixels, labels = _read_pair(files[found])
    train = splits.find("train", files)
    trained = labels if train in (None, found) else _read_array(_labels_file(files[train]), 1)
    names = _class_names(root, classes, trained)
    for file, numbers in ((files[found], labels), (files[train or found], trained)):
        if len(numbers) and numbers.max() >= len(names):
            raise UserError(
                f"{_labels_file(file)} has the label {numbers.max()}, which is outside the list of {len(names)} "
                f"classes, {', '.join(names)}; correct the list or the labels."
            )
    labelled.require_trained(
        [names[k] for k in np.unique(labels)], [names[k] for k in np.unique(trained)], where, found
    )
    positions = [f"{found}/{row:05d}" for row in range(len(labels))]
    kept = labelled.rows_of(part, positions, labels, seed, hold_out)
    content = hashlib.sha256(pixels[kept].tobytes()).digest()
    images = Grey(pixels[kept])
    chosen = [positions[row] for row in kept]
    return labelled.make_source(
        where, split, names, chosen, labels[kept].astype(np.int32), images, dropped={}, content=content
    )


def _files(root: pathlib.Path) -> dict[str, pathlib.Path]:
    """Find the file of the images of every split."""
    found = {}
    for file in sorted(root.iterdir()):
        if match := _IMAGES.fullmatch(file.name):
            found.setdefault({"t10k": "test"}.get(match["split"], match["split"]), file)
    if not found:
        raise UserError(
            f"{root} has no IDX files; put train-images-idx3-ubyte[.gz] and train-labels-idx1-ubyte[.gz] there."
        )
    return found


def _labels_file(images: pathlib.Path) -> pathlib.Path:
    """Find the labels that go with a file of images, packed or not."""
    name = images.name.removesuffix(".gz").replace("-images", "-labels").replace("idx3", "idx1")
    tried = [images.with_name(name), images.with_name(f"{name}.gz")]
    for file in tried:
        if file.is_file():
            return file
    raise UserError(f"{images} has no labels: {tried[0].name} or {tried[1].name} must be beside it.")


def _read_pair(file: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
    pixels, labels = _read_array(file, 3), _read_array(_labels_file(file), 1)
    if len(pixels) != len(labels):
        raise UserError(
            f"{file} has {len(pixels)} images and {_labels_file(file).name} has {len(labels)} labels; fetch both again."
        )
    return pixels, labels


def _read_array(file: pathlib.Path, rank: int) -> np.ndarray:
    """Read a file of bytes: two zeros, the type, the rank, each size as a big-endian 32-bit number, and the values."""
    try:
        data = regular.read_bytes(file)
        data = unpacking.inflate(data, str(file), _GZIP) if data[:2] == b"\x1f\x8b" else data
    except (EOFError, zlib.error) as error:
        raise UserError(f"{file} is cut short or damaged ({error}); fetch it again.") from error
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror}).") from error
    if data[:4] != bytes((0, 0, _UBYTE, rank)):
        kind = "images" if rank == 3 else "labels"
        raise UserError(
            f"{file} is not an IDX file of {kind}: it begins with {data[:4].hex(' ') or 'nothing'}, not "
            f"00 00 08 0{rank}; fetch the right one."
        )
    begin = 4 + 4 * rank
    if len(data) < begin:
        raise UserError(f"{file} is cut short: it ends in its header; fetch it again.")
    shape = tuple(np.frombuffer(data[4:begin], ">u4").tolist())
    if len(data) - begin != math.prod(shape):
        raise UserError(
            f"{file} says it holds {'×'.join(map(str, shape))} bytes and has {len(data) - begin}; it is cut "
            "short or damaged: fetch it again."
        )
    return np.frombuffer(data, np.uint8, offset=begin).reshape(shape)


def _class_names(root: pathlib.Path, given: str | Sequence[str] | None, labels: np.ndarray) -> tuple[str, ...]:
    listed = root / "classes.txt"
    if given is None and listed.is_file():
        try:
            given = [line.strip() for line in regular.read_text(listed).splitlines() if line.strip()]
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{listed} cannot be read as text ({error}); write one class name a line.") from error
    if given is not None:
        return labelled.class_names(given)
    return tuple(map(str, range(int(labels.max()) + 1 if len(labels) else 0)))

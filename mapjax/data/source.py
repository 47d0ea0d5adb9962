"""What every data set becomes: a `Source`, random access to the records of one split."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, overload

import numpy as np
from jaxtyping import Bool, Int32, UInt8

from mapjax.data import labels
from mapjax.errors import UserError
from mapjax.stages import KEYS

Record = dict[str, Any]  # keys: stages.py


class Records(Sequence[Record]):
    """Random access to `length` records; `at(index)` makes one when it is asked for. Picklable where `at` is.

    Example:
      >>> import numpy as np
      >>> from mapjax.data.source import Records
      >>> labels = np.array([0, 1, 1], np.int32)
      >>> records = Records(3, lambda index: {"id": index, "file": f"{index}.png"}, labels=labels)
      >>> len(records), records[1]["file"], records.labels().tolist()
      (3, '1.png', [0, 1, 1])
    """

    def __init__(
        self,
        length: int,
        at: Callable[[int], Record],
        labels: np.ndarray | None = None,
        files: Sequence[str] | None = None,
        names: Sequence[str] | None = None,
        truth: Callable[[int], Record] | None = None,
        objects: Callable[[], Mapping[str, np.ndarray]] | None = None,
        sizes: np.ndarray | None = None,
        label_map: Callable[[int], np.ndarray] | None = None,
    ):
        """Give what is known without making a record, for the methods of these names."""
        self._length, self._at, self._labels, self._files, self._names = length, at, labels, files, names
        self._truth, self._objects, self._sizes, self.label_map = truth, objects, sizes, label_map

    def labels(self) -> np.ndarray | None:
        """Return the `label` of every record, int32 (n,), or `labels`, bool (n c); None where they are not known."""
        return self._labels

    def files(self) -> Sequence[str] | None:
        """Return the image file of every record; None where they are not known or there are none."""
        return self._files

    def sizes(self) -> Int32[np.ndarray, "n 2"] | None:
        """Return height, width of every image; None where they are not known."""
        return self._sizes

    def name(self, index: int) -> str:
        """Return the `file` of a record; its image is not read where the name is known without."""
        return self.truth(index)["file"] if self._names is None else self._names[index]

    def truth(self, index: int) -> Record:
        """Return a record without its image and label map where it is known without them, else the record."""
        return self[index] if self._truth is None else self._truth(index)

    def objects(self) -> Mapping[str, np.ndarray] | None:
        """Return `boxes`, `classes` and `crowd` of all records end to end; None where that needs every record.

        `counts` (n,) says how many objects each record has.
        """
        return None if self._objects is None else self._objects()

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Record]: ...
    def __getitem__(self, index: int | slice) -> Record | Sequence[Record]:
        numbers = range(self._length)[index]
        return self._at(numbers) if isinstance(numbers, int) else [self._at(number) for number in numbers]


class Source(NamedTuple):
    """One split of a data set.

    name: as the user wrote it, "voc:DIR".
    split: "train", "val", …
    classes: the names, in order of their 0-based class.
    category_ids: the data set's own number for each (COCO's category id; 1, 2, … elsewhere), written to
      predictions.json.
    records: random access; record i is the same every time.
    dropped: what was left out, by reason, each with the file or annotation it was: {"empty box": ["a.xml #3"]}.
    fingerprint: changes whenever the split's content does.
    keypoints: the names of the keypoints of an object, where the records have them.
    noted: what was kept though it is odd, likewise: {"box clipped to the image": ["a.xml #3"]}.
    skeleton: pairs of keypoints, by number, that a line joins where they are drawn.
    sigmas: of each keypoint, how far annotators differ, as a share of the object's size (COCO's OKS); () where the
      data set does not say.

    Example:
      >>> import numpy as np
      >>> import mapjax
      >>> records = [{"id": 0, "file": "a", "image": np.zeros((4, 6, 3), np.uint8), "label": np.int32(1)}]
      >>> source = mapjax.Source("mine", "train", ("cat", "dog"), (1, 2), records, {}, "1")
      >>> source.classes[source.records[0]["label"]]
      'dog'
    """

    name: str
    split: str
    classes: tuple[str, ...]
    category_ids: tuple[int, ...]
    records: Sequence[Record]
    dropped: dict[str, list[str]]
    fingerprint: str
    keypoints: tuple[str, ...] = ()
    noted: Mapping[str, list[str]] = {}
    skeleton: tuple[tuple[int, int], ...] = ()
    sigmas: tuple[float, ...] = ()


def name_of(source: Source, index: int) -> str:
    """Return the name for people of one image of a source."""
    records = source.records
    return records.name(index) if isinstance(records, Records) else records[index]["file"]


def truth_of(source: Source, index: int) -> Record:
    """Return one record of a source for its labels; its image is not read where they are known without."""
    records = source.records
    return records.truth(index) if isinstance(records, Records) else records[index]


def labels_of(source: Source) -> Int32[np.ndarray, " n"] | Bool[np.ndarray, "n c"]:
    """Return the class of every image, or for each class whether the image has it.

    Records that do not know their labels without being made (`Records.labels`) are made one after the other.

    Raises:
      UserError: the records have no labels of whole images.
    """
    known: Any = getattr(source.records, "labels", None)
    found = None if known is None else known()
    if found is not None:
        return found
    if len(source.records) == 0:
        return np.zeros(0, np.int32)
    kind = labels.of_image(source.records[0])
    if kind is None:
        raise UserError(
            f"{source.name} has no label for a whole image; use data with classes, such as folder:DIR or table:FILE."
        )
    made = np.stack([np.asarray(record[kind]) for record in source.records])
    return made.astype(KEYS[kind].dtype)


def kind_of(source: Source) -> str | None:
    """Return the kind of labels as which the records are looked at (labels.py); at most one record is made.

    None: they have no labels, or there is none.

    Raises:
      UserError: that record cannot be made.
    """
    if (known := labels.known(source.records)) is not None or len(source.records) == 0:
        return known
    return labels.leading(truth_of(source, 0)) or labels.leading(source.records[0])


def label_map_of(source: Source, index: int) -> UInt8[np.ndarray, "h w"]:
    """Return the label map of one record of a source, by itself where the records can.

    Raises:
      UserError: it cannot be read.
    """
    alone: Any = getattr(source.records, "label_map", None)
    return source.records[index]["label_map"] if alone is None else alone(index)


def largest_size(source: Source) -> tuple[int, int]:
    """Return height, width of the least frame that holds every image of a source; 0, 0 where there is none.

    Records that do not know their sizes (`Records.sizes`) are gone through one after the other.

    Raises:
      UserError: records that do not say how large their images are.
    """
    known: Any = getattr(source.records, "sizes", None)
    sizes = None if known is None else known()
    if sizes is None:
        found = [truth_of(source, index).get("size") for index in range(len(source.records))]
        if any(size is None for size in found):
            raise UserError(f"{source.name} does not say how large its images are; give its records a 'size'.")
        sizes = np.array(found, np.int32).reshape(-1, 2)
    height, width = sizes.max(axis=0, initial=0).tolist()
    return height, width

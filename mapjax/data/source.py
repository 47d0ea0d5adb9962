"""What every data set becomes: a `Source`, random access to the records of one split."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, overload

Record = dict[str, Any]  # keys: stages.py


class Records(Sequence[Record]):
    """Random access to `length` records; `at(index)` makes one when it is asked for. Picklable where `at` is."""

    def __init__(self, length: int, at: Callable[[int], Record]):
        self._length, self._at = length, at

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

    name: as the user wrote it, "voc:DIR"; split: "train", "val", …
    classes: the names, in order of their 0-based class; category_ids: the data set's own number for each
      (COCO's category id; 1, 2, … elsewhere), written to predictions.json.
    records: random access; record i is the same every time.
    dropped: what was left out, by reason, each with the file or annotation it was: {"empty box": ["a.xml #3"]}.
    fingerprint: changes whenever the split's content does.
    """

    name: str
    split: str
    classes: tuple[str, ...]
    category_ids: tuple[int, ...]
    records: Sequence[Record]
    dropped: dict[str, list[str]]
    fingerprint: str

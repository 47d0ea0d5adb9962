"""A data format of your own: a file of JSON lines, {"file": "a.png", "label": "cat", "split": "train"}.

--data examples.data_format:FILE.jsonl
"""

import hashlib
import json
import pathlib

import numpy as np

from mapjax import Source, UserError
from mapjax.data.source import Records
from mapjax.errors import NoSuchSplit

ABOUT = "examples.data_format:FILE.jsonl (labels)"


def make(*, split: str, path: str) -> Source:
    """Read one split; no image is opened.

    Args:
      split: given by the program: that of `splits.train` or of `splits.eval`.
      path: the file; images lie relative to it.

    Raises:
      UserError: no such file, or a line that is no JSON object with these three keys.
    """
    file, rows = pathlib.Path(path), []
    try:
        lines = file.read_text("utf-8").splitlines()
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror}); check the path.") from error
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            rows.append((row["file"], row["label"], row["split"]))
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f'{file}, line {number}: write {{"file": …, "label": …, "split": …}}.') from error
    classes = tuple(sorted({label for _, label, place in rows if place == "train"}))
    mine = [(name, label) for name, label, place in rows if place == split]
    if not mine:
        raise NoSuchSplit(f"{file} has no split {split!r}; there is: {', '.join(sorted({row[2] for row in rows}))}.")
    known = [(name, classes.index(label)) for name, label in mine if label in classes]
    names, labels = [name for name, _ in known], np.array([number for _, number in known], np.int32)

    def record(index: int):
        return {"id": index, "file": names[index], "image": str(file.parent / names[index]), "label": labels[index]}

    return Source(
        name=f"examples.data_format:{path}",
        split=split,
        classes=classes,
        category_ids=tuple(range(1, len(classes) + 1)),
        records=Records(len(names), record, labels=labels, names=names),
        dropped={"class without training images": [name for name, label in mine if label not in classes]},
        fingerprint=hashlib.sha256("\n".join([split, *lines]).encode()).hexdigest()[:16],
    )

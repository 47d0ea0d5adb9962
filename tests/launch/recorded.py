"""launch/main.py that also notes the examples it trains on: a line "step: index index …" for every batch it takes.

python tests/launch/recorded.py ORDER.txt --config … --workdir …
"""

import pathlib
import sys
from typing import Any

import numpy as np

from mapjax.cli import terminal, train


class Recorded:
    """Batches that are written down as they are taken."""

    def __init__(self, batches: Any, start: int, path: pathlib.Path):
        self._batches, self._step, self._file = batches, start, path.open("a", encoding="utf-8")

    def __next__(self) -> dict[str, Any]:
        batch = next(self._batches)
        self._step += 1
        self._file.write(f"{self._step}: {' '.join(map(str, np.asarray(batch['index'])))}\n")
        self._file.flush()
        return batch

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batches, name)


def main(path: pathlib.Path) -> None:
    """Run launch/main.py with its batches recorded."""
    from mapjax.data import pipeline

    make = pipeline.train_batches

    def recorded(*args: Any, start: int, **options: Any) -> Recorded:
        return Recorded(make(*args, start=start, **options), start, path)

    pipeline.train_batches = recorded  # type: ignore[assignment]
    terminal.run_main(train.main)


if __name__ == "__main__":  # a data worker imports this file too
    main(pathlib.Path(sys.argv.pop(1)))

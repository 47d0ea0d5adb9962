"""mapjax.runs.score.table where names are long and classes many."""

import numpy as np
from rich.console import Console

from mapjax.runs import score


def printed(metrics, width=80):
    console = Console(width=width)
    with console.capture() as capture:
        console.print(score.table(metrics), crop=False)
    return capture.get().splitlines()


def test_long_names_are_listed():
    metrics = {"top1": 0.5, "f1_weighted": 0.25, "f1": -1.0} | {"f1/a cat": 0.125, "f1/dog": -1.0}
    lines = [line.split() for line in printed(metrics)]
    assert lines == [
        ["top1", "0.500"], ["f1_weighted", "0.250"], ["f1", "–"], [], ["f1"], ["a", "cat", "0.125"], ["dog", "–"]
    ]  # fmt: skip
    assert [line.split() for line in printed({"temperature": 1.5})] == [["temperature", "1.500"]]


def test_of_many_classes_the_worst_are_shown():
    scores = np.random.default_rng(0).permutation(200) / 200
    metrics = {"temperature": 1.0} | {f"f1/c{k}": float(v) for k, v in enumerate(scores)} | {"f1/none": -1.0}
    lines = [line.split() for line in printed(metrics)]
    worst = [f"c{k}" for k in np.argsort(scores)[: score.FEW]]
    assert [line[0] for line in lines[3 : 3 + score.FEW]] == worst
    assert "of 201 classes" in " ".join(word for line in lines for word in line)

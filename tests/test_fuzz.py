"""A few hundred damaged inputs of every kind; `python tests/fuzz.py` tries 20,000."""

import os
import time

import fuzz
import fuzz_inputs
import numpy as np
import pytest

from mapjax.errors import UserError

EACH = 16  # inputs of a kind


@pytest.mark.parametrize("kind", fuzz_inputs.KINDS)
def test_damaged_files_give_a_clean_result_or_a_sentence(kind, tmp_path):
    for number in range(EACH):
        folder = tmp_path / str(number)
        folder.mkdir()
        outcome = fuzz.try_one(kind, number, folder)
        assert outcome.name in (fuzz.CLEAN, fuzz.REFUSED), (
            f"python tests/fuzz.py --kinds {kind} --only {number}: {outcome}"
        )


@pytest.mark.parametrize("kind", fuzz_inputs.KINDS)
def test_a_sound_input_is_read(kind, tmp_path):
    """What is refused for another reason than its damage would be no test."""
    made = fuzz_inputs.KINDS[kind]
    made.write(tmp_path, np.random.default_rng(0))
    assert made.use(tmp_path) > 0


def fails(error):
    def use(_):
        raise error

    return use


@pytest.mark.parametrize(
    ("use", "name"),
    [
        (lambda _: None, "clean"),
        (fails(UserError("x.png is damaged; replace it.")), "refused"),
        (fails(UserError("")), "sentence"),
        (fails(KeyError("a")), "KeyError"),
        (lambda _: time.sleep(0.2), "slow"),
        (lambda _: np.ones(40 << 20, np.uint8), "memory"),
    ],
)
def test_what_must_not_be_is_told(use, name, tmp_path, monkeypatch):
    monkeypatch.setattr(fuzz, "MOST_S", 0.1)
    peaks = iter([100.0, 100.0] if name != "memory" else [100.0, 5000.0])
    monkeypatch.setattr(fuzz, "_peak_mb", lambda: next(peaks))
    monkeypatch.setitem(fuzz_inputs.KINDS, "run", fuzz_inputs.KINDS["run"]._replace(use=use))
    assert fuzz.try_one("run", 0, tmp_path).name == name


def test_a_crash_of_the_interpreter_is_told(monkeypatch, tmp_path):
    """The inputs behind it are tried all the same."""
    part = fuzz._run_part
    monkeypatch.setattr(fuzz, "_part", lambda task, answers: answers.send(task[1]) or os._exit(9))
    assert [(one.number, one.name) for one in part(("run", 0, 2))] == [(0, "crash"), (1, "crash")]


def test_the_counts_stand_in_a_table():
    outcomes = [
        fuzz.Outcome("coco", 0, "clean", ""),
        fuzz.Outcome("coco", 1, "slow", ""),
        fuzz.Outcome("voc", 0, "refused", ""),
    ]
    lines = [line.split() for line in fuzz.table(outcomes).splitlines()]
    assert lines == [["clean", "refused", "slow"], ["coco", "1", "0", "1"], ["voc", "0", "1", "0"]]

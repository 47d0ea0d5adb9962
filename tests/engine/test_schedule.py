import math

import pytest

from mapjax.engine import schedule
from mapjax.errors import UserError

CLOCK = schedule.Clock(batch=16, examples=1000, total=500)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("500 steps", 500), ("2 epochs", 125), ("1 epoch", 63), ("160 examples", 10), ("5 %", 25), (7, 7), ("0 steps", 0)],
)
def test_durations(text, expected):
    assert CLOCK.steps(text) == expected


@pytest.mark.parametrize("text", ["ten steps", "5 parsecs", "1.2.3 steps", "", "5 steps more"])
def test_a_wrong_duration_names_its_key(text):
    with pytest.raises(UserError, match=r"schedule.warmup="):
        CLOCK.steps(text, "schedule.warmup")


def test_the_total_cannot_be_relative():
    with pytest.raises(UserError, match="cannot be given in %"):
        schedule.Clock(16, 1000).steps("50 %")


def test_warmup_then_cosine_to_zero():
    rate = schedule.make({"name": "cosine", "warmup": "10 %"}, peak=0.1, clock=CLOCK)
    assert float(rate(0)) == pytest.approx(0.1 / 50, rel=1e-5)
    assert float(rate(50)) == pytest.approx(0.1)
    assert float(rate(50 + 225)) == pytest.approx(0.05)
    assert float(rate(500)) == pytest.approx(0.0, abs=1e-9)


def test_steps_drop_where_they_are_told():
    rate = schedule.make({"name": "steps", "at": (0.5, 0.8), "warmup": "0 steps"}, peak=1.0, clock=CLOCK)
    assert [round(math.log10(float(rate(s)))) for s in (0, 249, 251, 399, 401)] == [0, 0, -1, -1, -2]


def test_a_warmup_moves_no_drop():
    node = {"name": "steps", "at": (0.5, 0.8), "warmup": "100 steps"}
    rate = schedule.make(node, peak=1.0, clock=CLOCK)
    assert [round(math.log10(float(rate(s)))) for s in (100, 249, 251, 399, 401)] == [0, 0, -1, -1, -2]


def test_mistakes():
    with pytest.raises(UserError, match="Did you mean 'cosine'"):
        schedule.make({"name": "cosin"}, peak=1.0, clock=CLOCK)
    with pytest.raises(UserError, match=r"schedule\.fina is not known\. Did you mean 'final'"):
        schedule.make({"name": "cosine", "fina": 0.1}, peak=1.0, clock=CLOCK)


def test_a_warm_up_longer_than_the_training():
    with pytest.raises(UserError, match=r"schedule\.warmup='200 %' must be at most 100 % of the training"):
        schedule.make({"warmup": "200 %"}, peak=1.0, clock=schedule.Clock(2, 10, 20))

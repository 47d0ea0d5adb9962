import sys

import jax.numpy as jnp
import numpy as np
import pytest

from mapjax import stages
from mapjax.cli import terminal
from mapjax.config import parts
from mapjax.errors import UserError, near
from mapjax.runtime import signals


def test_a_misspelt_name_lists_the_near_ones():
    with pytest.raises(UserError, match=r"no part 'resnt' among mapjax.models. Did you mean 'resnet'"):
        parts.make("models", {"name": "resnt"})
    with pytest.raises(UserError, match="needs a name"):
        parts.make("models", {"depth": 3})
    with pytest.raises(UserError, match=r"no function make"):
        parts.make("models", {"name": "layers"})


def test_a_wrong_keyword_names_the_near_one():
    with pytest.raises(UserError, match=r"'resnet': got an unexpected keyword argument 'dept'. Did you mean 'depth'"):
        parts.make("models", {"name": "resnet", "dept": 18})


def test_a_dotted_name_comes_from_anywhere(tmp_path, monkeypatch):
    (tmp_path / "my_parts.py").write_text("def make(*, size, classes):\n    return size * classes\n")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "__init__.py").write_text("")
    (tmp_path / "mine" / "net.py").write_text("def make(*, size, classes):\n    return size * classes\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert parts.make("models", {"name": "my_parts", "size": 3}, classes=4) == 12
    assert parts.make("models", {"name": "mine.net", "size": 3}, classes=4) == 12
    assert "mine.net" in sys.modules
    with pytest.raises(UserError, match=r"models part 'mine.nett': there is no such module; a module of yours lies in"):
        parts.make("models", {"name": "mine.nett"})


def test_what_a_part_is_made_with_is_no_part():
    of_objects = {"precision", "mask_precision", "boundary_precision", "keypoint_precision", "pck", "panoptic"}
    assert set(parts.names("metrics")) == {"accuracy", "classification", "iou", "multilabel"} | of_objects
    assert parts.names("data.transforms") == ["boxes", "crops", "mixed_boxes", "mosaic", "pixelwise"]
    with pytest.raises(UserError, match=r"combine has no function make"):
        parts.make("metrics", {"name": "combine"})


def test_near_names():
    assert near("lerning_rate", ["learning_rate", "momentum"]) == " Did you mean 'learning_rate'?"
    assert near("xyz", ["b", "a"]) == " Known: a, b."


def example(**changes):
    values = {
        "image": np.zeros((8, 8, 3), np.uint8),
        "boxes": np.zeros((4, 4), np.float32),
        "classes": np.zeros(4, np.int32),
        "valid": np.zeros(4, bool),
    }
    return {**values, **changes}


def test_stages_accept_what_the_table_says():
    stages.check("example", example())
    batch = {name: jnp.asarray(value)[None] for name, value in example().items()}
    stages.check("batch", {**batch, "mask": jnp.ones(1, bool)})
    for other, values in (("example", batch), ("batch", example()), ("result", batch)):
        with pytest.raises(ValueError, match=r"expected axes|does not list for it"):
            stages.check(other, values)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"boxs": np.zeros(3)}, "does not list"),
        ({"image": np.zeros((8, 8, 3), np.float32)}, "is float32, expected uint8"),
        ({"boxes": np.zeros(4, np.float32)}, "expected axes M 4"),
        ({"classes": np.zeros(5, np.int32)}, "has M=5, but boxes says 4"),
        ({"image": np.zeros((8, 8, 4), np.uint8)}, "has 3=4"),
    ],
)
def test_stages_refuse_the_rest(changes, message):
    with pytest.raises(ValueError, match=message):
        stages.check("example", example(**changes))


def test_a_signal_only_asks():
    with signals.Stop() as asked:
        assert not asked
        assert not asked.after(1)
        import signal

        signal.raise_signal(signal.SIGTERM)
        assert asked
        assert asked.signal == signal.SIGTERM
        assert asked.after(2)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_together_ctrl_c_becomes_the_sigterm_that_jax_spreads(monkeypatch):
    import signal

    from jax.experimental import multihost_utils

    caught = []
    before = signal.signal(signal.SIGTERM, lambda number, _: caught.append(number))  # as JAX has done
    # JAX settles on the number after the highest that a process has told; it takes one that told none to be at 0.
    monkeypatch.setattr(multihost_utils, "reached_preemption_sync_point", lambda told: bool(caught) and told == 3)
    try:
        with signals.Stop(together=True) as asked:
            assert not asked.after(503)
            signal.raise_signal(signal.SIGINT)
            assert caught == [signal.SIGTERM]
            assert not asked.after(504)  # asked, but another process may be past this step
            assert asked.after(505)
            assert asked.signal == signal.SIGTERM
    finally:
        signal.signal(signal.SIGTERM, before)


def test_arguments():
    made = terminal.parser("train", "what it does", "an example")
    made.add_argument("--data")
    known, overrides = terminal.parse(made, ["--data", "voc:x", "--config.a.b=1=2", "--config.c", "3"], config=True)
    assert known.data == "voc:x"
    assert overrides == {"a.b": "1=2", "c": "3"}
    with pytest.raises(UserError, match=r"unknown argument '--dta'. Did you mean '--data'"):
        terminal.parse(made, ["--dta", "x"])
    with pytest.raises(UserError, match="needs a value"):
        terminal.parse(made, ["--config.c"], config=True)
    with pytest.raises(UserError, match=r"unknown argument '--config\.c=3'"):
        terminal.parse(made, ["--config.c=3"])


def test_a_mistake_is_one_line_and_code_2(monkeypatch, capsys):
    def main(argv):
        raise UserError("batch=3 does not divide")

    monkeypatch.setattr(sys, "argv", ["x"])
    with pytest.raises(SystemExit) as left:
        terminal.run_main(main)
    assert left.value.code == 2
    assert capsys.readouterr().err == "error: batch=3 does not divide\n"
    monkeypatch.setattr(sys, "argv", ["x", "--traceback"])
    with pytest.raises(UserError):
        terminal.run_main(main)

"""What a sweep may be, and the sentence for each way in which it may not."""

import itertools
import textwrap

import pytest
from PIL import Image

from mapjax.config import load as configs
from mapjax.errors import UserError
from mapjax.runtime import checksum
from mapjax.study import runs, sweep

CONFIG = """
from ml_collections import ConfigDict
from mapjax.study.sweep import Sweep

def get_config():
    return ConfigDict({"data": {"name": "digits"}, "batch": 8, "model": {"name": "tiny"}, "task": {"name": "classify"},
                       "transform": {"name": "crops"}, "optimizer": {"learning_rate": 0.1}})

def sweep():
    return Sweep(
"""


def experiment(tmp_path, arguments: str) -> str:
    file = tmp_path / "study.py"
    file.write_text(CONFIG + textwrap.indent(arguments, "        ") + ")\n")
    return str(file)


def test_cells_are_whole_configs(tmp_path):
    name = experiment(
        tmp_path,
        "cells=((f'lr-{10 ** -k:g}', {'optimizer.learning_rate': 10.0 ** -k} if k != 1 else {}) for k in (1, 2)),\n"
        "baseline='lr-0.1', metrics={'top1': 'max'}",
    )
    study = sweep.load(name, more={"batch": "4"})
    assert [cell.name for cell in study.cells] == ["lr-0.1", "lr-0.01"]
    assert [cell.config.optimizer.learning_rate for cell in study.cells] == [0.1, 0.01]
    assert {cell.config.batch for cell in study.cells} == {4}
    assert study.seeds == (0, 1, 2)
    narrowed = sweep.narrowed(study, ["lr-0.01"], [5])
    assert [cell.name for cell in narrowed.cells] == ["lr-0.1", "lr-0.01"] and narrowed.seeds == (5,)


GOOD = "baseline='a', metrics={'top1': 'max'}"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (f"cells=(('a', {{}}), ('a', {{'batch': 4}})), {GOOD}", "gives two cells the name 'a'"),
        (f"cells={{'a': {{}}, 'b': {{'batch': 8}}}}, {GOOD}", "the cells 'a' and 'b' are the same run"),
        (
            f"cells={{'a': {{}}, 'b': {{'optimizer.learning_rat': 1.0}}}}, {GOOD}",
            r"cell 'b': --config.optimizer.learning_rat: there is no such key. Did you mean 'optimizer.learning_rate'",
        ),
        (f"cells={{}}, {GOOD}", "gives no cell"),
        (f"cells={{'a b': {{}}}}, {GOOD}", "letters, digits"),
        (
            "cells={'none': {}}, baseline='non', metrics={'top1': 'max'}",
            "baseline 'non' is no cell. Did you mean 'none'",
        ),
        ("cells={'a': {}}, baseline='a', metrics={}", "names no metrics"),
        ("cells={'a': {}}, baseline='a', metrics={'top1': 'up'}", "must be 'max' or 'min'"),
        ("cells={'a': {}}, baseline='a', metrics={'top1@dark': 'max'}, tests={'dusk': {}}", "a test that there is not"),
        (f"cells={{'a': {{}}}}, {GOOD}, seeds=(0, 0)", "each once"),
        (f"cells={{'a': {{}}, 'b': {{'skip_non_finite': 0}}}}, {GOOD}", "are the same run"),
        (f"cells={{'a': {{'seed': 1}}}}, {GOOD}", "cell 'a': each cell has every seed"),
        (f"cells={{'..': {{}}}}, {GOOD}", "a name is that of a folder"),
        (f"cells=(('a', {{}}, 1),), {GOOD}", "cells that are no pairs"),
        (
            f"cells={{'a': {{}}}}, {GOOD}, tests={{'t': {{'shfit': {{}}}}}}",
            "test 't': --config.shfit: there is no such key",
        ),
        (
            f"cells={{'a': {{}}}}, {GOOD}, tests={{'t': {{'corruption': {{'rotat': 3.0}}}}}}",
            "test 't': there is no augmentation",
        ),
        (f"cells={{'a': {{}}}}, {GOOD}, tests={{'../t': {{}}}}", "a name is that of a folder"),
        (
            f"cells={{'a': {{}}}}, {GOOD}, ranges={{'no.key': ('log', 1.0, 2.0)}}",
            "--config.no.key: there is no such key",
        ),
    ],
)
def test_what_cannot_be(tmp_path, arguments, message):
    with pytest.raises(UserError, match=message):
        sweep.load(experiment(tmp_path, arguments))


def test_no_sweep(tmp_path):
    (tmp_path / "plain.py").write_text("def get_config():\n    return {}\n")
    with pytest.raises(UserError, match=r"the file defines no sweep\(\)"):
        sweep.load(str(tmp_path / "plain.py"))


def test_only_and_seeds_that_cannot_be(tmp_path):
    study = sweep.load(experiment(tmp_path, f"cells={{'a': {{}}, 'b': {{'batch': 4}}}}, {GOOD}"))
    with pytest.raises(UserError, match="--only c: the study has no such cell"):
        sweep.narrowed(study, ["c"])
    with pytest.raises(UserError, match="whole numbers"):
        sweep.narrowed(study, [], [-1])


def test_the_command_line_is_before_a_cells_own(tmp_path):
    name = experiment(tmp_path, f"cells={{'a': {{}}, 'b': {{'batch': 4, 'optimizer.learning_rate': 1.0}}}}, {GOOD}")
    assert {cell.config.batch for cell in sweep.load(name, more={"batch": "2"}).cells} == {2}
    with pytest.raises(UserError, match="give them by --seeds"):
        sweep.load(name, more={"seed": "2"})
    with pytest.raises(UserError, match="takes no variant"):
        sweep.load(f"{name}:digits")


def test_a_run_is_known_by_config_data_and_code(tmp_path):
    study = sweep.load(experiment(tmp_path, f"cells={{'a': {{}}, 'b': {{'batch': 4}}}}, {GOOD}"))
    one, other = (cell.config for cell in study.cells)
    keys = {sweep.key(one, ("x",), "c"), sweep.key(other, ("x",), "c"), sweep.key(one, ("y",), "c")}
    keys.add(sweep.key(one, ("x",), "d"))
    assert len(keys) == 4
    assert sweep.key(one, ("x",), "c") in keys
    assert sweep.code() == sweep.code()


def test_where_data_is_does_not_tell_runs_apart(tmp_path):
    keys = set()
    for name, other in (("a", 1.0), ("b", 1.0), ("b", 2.0)):
        (tmp_path / name).mkdir(exist_ok=True)
        data = {"name": "idx", "path": str(tmp_path / name), "tail": other}
        keys.add(sweep.key(configs.from_dict({"data": data, "streams": {"more": {"data": data}}}), ("x",), "c"))
    assert len(keys) == 2


def test_a_test_looks_where_the_data_is_now(tmp_path):
    (tmp_path / "new").mkdir()
    configured = configs.from_dict({"data": {"name": "idx", "path": str(tmp_path / "new")}})
    study = sweep.load(experiment(tmp_path, f"cells={{'a': {{}}}}, {GOOD}"))._replace(tests={"dark": {"ema": 0.5}})
    job = runs.Job(study.cells[0], 0, configured, tmp_path, "x")
    (tmp_path / "result.json").touch()
    (tmp_path / "config.json").write_text('{"data": {"name": "idx", "path": "gone"}}')
    ((*_, place, change),) = runs.commands(study, job)
    assert (place, change) == (f"--config.data.path={tmp_path / 'new'}", "--config.ema=0.5")


def test_a_run_is_known_by_the_weights_that_it_is_given(tmp_path):
    file, folder = tmp_path / "given.npz", tmp_path / "run"
    (folder / "checkpoints" / "5").mkdir(parents=True)
    listed = folder / "checkpoints" / "5" / checksum.NAME
    for source, changed in ((file, file), (folder, listed)):
        changed.write_bytes(b"some")
        before = runs._weights(str(source), {})
        changed.write_bytes(b"others")
        assert len(before) == 1 and runs._weights(str(source), {}) != before
        changed.write_bytes(b"some")
        assert runs._weights(str(source), {}) == before
    assert runs._weights("torchvision/resnet18.IMAGENET1K_V1", {}) == runs._weights("", {}) == ()


def test_jobs_with_other_weights_are_others(tmp_path):
    file = tmp_path / "given.npz"
    study = sweep.load("experiments/ablate_imbalance.py", more={"init_from": str(file)})
    keys = []
    for content in (b"some", b"others"):
        file.write_bytes(content)
        keys.append({job.key for job in runs.jobs(study, tmp_path)})
    assert len(keys[0]) == len(study.cells) * len(study.seeds) and not keys[0] & keys[1]


def test_a_test_is_known_by_its_data(tmp_path):
    """Of the digits that are a test's own, one file is another."""
    folder = tmp_path / "data"
    for split, label in itertools.product(("train", "val"), "01"):
        (folder / split / label).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(folder / split / label / "a.png")
    given = {"splits.eval": "train"}
    cells = "{'a': {}, 'b': {'optimizer.learning_rate': 0.1}}"
    file = tmp_path / "study.py"
    file.write_text(
        "import pathlib\nfrom mapjax.config import load as configs\nfrom mapjax.study.sweep import Sweep\n"
        "def get_config():\n    return configs.load('experiments/classify.py')\n"
        f"def sweep():\n    return Sweep({cells}, 'a', {{'top1': 'max'}}, tests={{'t': {given}, 'own': {{}}}})\n"
    )

    def folders(tests=("t", "own")):
        study = sweep.load(str(file), data=f"folder:{folder}", more={"splits.train": "train", "splits.eval": "val"})
        turned = {"turned": {**given, "corruption": {"rotate": 30.0}}} if "turned" in tests else {}
        study = study._replace(tests=turned | dict(study.tests))
        job = runs.jobs(study, tmp_path)[0]
        return job.key, {name: path.name for name, path in runs.tests(job, study).items()}

    key, before = folders()
    assert folders() == (key, before)
    assert {**folders(("turned", "t", "own"))[1], **before} == folders(("turned", "t", "own"))[1]
    Image.new("RGB", (8, 8), "red").save(folder / "train" / "1" / "b.png")
    other, after = folders()
    assert other != key and before["own"] == after["own"] and before["t"] != after["t"]

"""A config from others runs none of its author's code."""

import json
import math
import sys
import zipfile

import pytest

from mapjax.config import foreign
from mapjax.config import load as configs
from mapjax.errors import UserError
from mapjax.runs import fit, trained
from mapjax.runtime import workdir
from mapjax.study import bundle, runs

PLAIN = {
    "data": {"name": "digits"},
    "transform": {"name": "pixelwise"},
    "model": {"name": "tiny"},
    "task": {"name": "classify"},
}
EVIL = [
    {"data": {"name": "evil_module"}},  # without a dot too
    {"transform": {"name": "evil_module.x"}},
    {"model": {"name": "faster_rcnn", "backbone": {"name": "evil_module.x"}}},
    {"model": {"name": "crf_rnn", "unary": {"name": "unet", "backbone": {"name": "evil_module"}}}},
    {"task": {"name": "resnet"}},  # of another kind: it would be looked for outside
    {"metrics": ["precision", "evil_module.x"]},
    {"metrics": [{"name": "evil_module", "k": 1}]},
    {"streams": {"more": {"data": {"name": "evil_module.x"}}}},
    {"streams": {"more": {"data": {"name": "digits"}, "transform": {"name": "evil_module"}}}},
]


@pytest.fixture(autouse=True)
def evil(tmp_path, monkeypatch):
    """A module that tells when it is imported."""
    (tmp_path / "evil_module.py").write_text(f"open({str(tmp_path / 'run')!r}, 'w')\ndef make(**_): pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    assert not (tmp_path / "run").exists() and "evil_module" not in sys.modules


def bundled(folder, config, **about):
    """A study.zip of one cell."""
    cell = {"name": "one", "overrides": {}, "metrics": {"top1": {"by_seed": {"0": 0.5}}}}
    plain = {"cells": [cell], "seeds": [0], "data": None, "experiment": "x", "baseline": "one"}
    with zipfile.ZipFile(folder / "study.zip", "w") as file:
        more = {"metrics": {"top1": "max"}, "tests": {}, "by_class": ""}
        file.writestr("study.json", json.dumps(plain | more | about))
        file.writestr("cells/one.json", json.dumps(config))
    return folder / "study.zip"


@pytest.mark.parametrize("part", EVIL)
def test_no_way_leads_to_it(part, tmp_path):
    folder = tmp_path / "run-of-others"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(PLAIN | part))
    (folder / "classes.json").write_text('["0"]')
    for way in (
        lambda: trained.load(folder),
        lambda: trained.load(folder, trusted=("mine.net",)),
        lambda: configs.load(str(folder / "config.json")),
    ):
        with pytest.raises(UserError, match=r"config.json: .*='(evil_module|resnet).* is a module of whoever made"):
            way()
    with pytest.raises(UserError, match=r"--from .*study.zip: cells/one.json: .* is a module of whoever made"):
        bundle.read(bundled(folder, PLAIN | part))
    (folder / "checkpoints" / "5").mkdir(parents=True)
    with pytest.raises(UserError, match="holds another experiment"):
        workdir.open_for(folder, PLAIN, ("0",))


@pytest.mark.parametrize(
    "changes", [{"data.name": "evil_module"}, {"task": "{'name': 'evil_module'}"}, {"metrics": "('evil_module',)"}]
)
def test_nor_does_a_test_of_a_study(changes, tmp_path):
    file = bundled(tmp_path, PLAIN, tests={"noisy": changes})
    with pytest.raises(UserError, match=r"study.json: test 'noisy': .*='evil_module' is a module of whoever made"):
        bundle.read(file)
    assert bundle.read(file, trust=True)[0].tests == {"noisy": changes}


def test_a_run_to_start_from_is_trusted_on_its_own(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(PLAIN | EVIL[0]))
    for trusted, message in ((False, "a module of whoever made"), (True, "classes.json is missing")):
        with pytest.raises(UserError, match=message):
            fit.fit(configs.from_dict(PLAIN | {"init_from": str(tmp_path)}), tmp_path / "new", trust=trusted)


@pytest.mark.parametrize("trust", [True, False])
def test_a_study_hands_its_trust_on(trust, tmp_path):
    study = bundle.read(bundled(tmp_path, PLAIN))[0]._replace(trust=trust)
    job = runs.Job(study.cells[0], 0, study.cells[0].config, tmp_path, "x")
    assert ("--trust" in runs.commands(study, job)[0]) == trust


@pytest.mark.parametrize(
    ("about", "message"),
    [
        ({"experiment": 3}, "experiment=3 must be of another type"),
        ({"data": ["x"]}, "must be of another type"),
        *(
            (
                {"cells": [{"name": "one", "overrides": {}, "metrics": {"top1": {"by_seed": {"0": figure}}}}]},
                "no number",
            )
            for figure in ("x", math.nan, 10**400)
        ),
    ],
)
def test_what_a_bundle_says_is_of_its_types(about, message, tmp_path):
    with pytest.raises(UserError, match=f"study.zip: study.json: .*{message}"):
        bundle.read(bundled(tmp_path, PLAIN, **about))


def test_what_is_trusted_is_let_through(tmp_path):
    config = PLAIN | EVIL[1]
    for trusted in (True, ("evil_module.x",)):
        assert configs.saved(config, "config.json", trusted).transform.name == "evil_module.x"


def test_every_part_of_mapjax_is_its_own():
    names = [f"{name}:{variant}" for name, variant in (("classify", "imagenet"), ("segment", "camvid_crf"))]
    for name in ("detect", *names):
        assert foreign.named_in(configs.to_dict(configs.load(name))) == {}


def test_choices_of_a_task_are_no_modules():
    task = {
        "name": "dense",
        "assignment": {"name": "iou", "high": 0.6},
        "code": {"name": "offsets"},
        "single": {"name": "iou"},
    }
    assert foreign.named_in({"task": task}) == {}
    assert foreign.named_in({"task": task | {"other": {"name": "os"}}}) == {"task.other.name": "os"}
    assert foreign.named_in({"model": {"name": "resnet", "code": {"name": "os"}}}) == {"model.code.name": "os"}

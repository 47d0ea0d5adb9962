"""A config from others runs none of its author's code."""

import json
import sys
import zipfile

import pytest

from mapjax.config import foreign
from mapjax.config import load as configs
from mapjax.errors import UserError
from mapjax.runs import trained
from mapjax.runtime import workdir
from mapjax.study import bundle

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
    about = {
        "cells": [{"name": "one", "overrides": {}}], "seeds": [0], "data": None, "experiment": "x", "baseline": "one",
        "metrics": {"top1": "max"}, "tests": {}, "by_class": {},
    }  # fmt: skip
    with zipfile.ZipFile(folder / "study.zip", "w") as file:
        file.writestr("study.json", json.dumps(about))
        file.writestr("cells/one.json", json.dumps(PLAIN | part))
    with pytest.raises(UserError, match=r"--from .*study.zip: cells/one.json: .* is a module of whoever made"):
        bundle.read(folder / "study.zip")
    (folder / "checkpoints" / "5").mkdir(parents=True)
    with pytest.raises(UserError, match="holds another experiment"):
        workdir.open_for(folder, PLAIN, ("0",))


def test_what_is_trusted_is_let_through(tmp_path):
    config = PLAIN | EVIL[1]
    for trusted in (True, ("evil_module.x",)):
        assert configs.saved(config, "config.json", trusted).transform.name == "evil_module.x"


def test_every_part_of_mapjax_is_its_own():
    names = [f"{name}:{variant}" for name, variant in (("classify", "imagenet"), ("segment", "camvid_crf"))]
    for name in ("detect", *names):
        assert foreign.named_in(configs.to_dict(configs.load(name))) == {}

"""A val that was held out of train and cannot tell anything names the mend."""

import numpy as np
import PIL.Image
import pytest

from mapjax.config import load as configs
from mapjax.data.checks import quality
from mapjax.data.formats import masks
from mapjax.errors import UserError
from mapjax.runs import fit, held_out, sources

MEND = r"name a split to evaluate on by --config\.splits\.eval, or hold out more by --config\.data\.hold_out=0\.3"


def folder(root, counts, split="."):
    for name, count in counts.items():
        (root / split / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            PIL.Image.new("RGB", (4, 4)).save(root / split / name / f"{number}.png")
    return f"folder:{root}"


def told(data):
    config, seen, val = sources.open_sources(configs.load("classify:finetune", data=data))
    return held_out.warning(config, *(quality.inspect(one, 0) for one in (seen, val)), val)


def test_a_share_without_images_stops_with_the_mend(tmp_path):
    config, seen, val = sources.open_sources(configs.load("classify:finetune", data=folder(tmp_path, {"a": 1, "b": 1})))
    with pytest.raises(UserError, match=f"split 'val', has no images; .*'val' is a share of train.*: {MEND}"):
        fit._check_data(config, seen, val)


def test_a_share_that_says_little_is_told(tmp_path):
    assert told(folder(tmp_path / "many", {"a": 10, "b": 10})) == ""
    said = told(folder(tmp_path / "one", {"a": 2, "b": 1}))
    assert said.startswith("'val', a share of train that was held out, has 1 image only: name a split to evaluate on")
    said = told(folder(tmp_path / "none", {"a": 9, "b": 9, "c": 1}))
    assert said.startswith(
        "'val', a share of train that was held out, has no images of 1 of 3 classes, such as c: name"
    )


def test_a_val_of_its_own_is_nobody_elses_fault(tmp_path):
    folder(tmp_path, {"a": 3, "b": 3}, "train")
    assert told(folder(tmp_path, {"a": 1}, "val")) == ""
    assert told("digits") == ""


def test_a_share_that_cannot_be_opened_names_the_mend(tmp_path):
    for kind, channels in (("images", 3), ("masks", 1)):
        (tmp_path / kind).mkdir()
        for number in range(2):
            PIL.Image.fromarray(np.zeros((4, 4, channels), np.uint8).squeeze()).save(tmp_path / kind / f"{number}.png")
    (tmp_path / "classes.txt").write_text("sky\nsea\n")
    (file,) = (r["file"] for r in masks.make(split="val", path=str(tmp_path)).records)
    (tmp_path / "masks" / file.removeprefix("images/")).write_bytes(b"")
    with pytest.raises(UserError, match=f"no image of split 'val' has a mask that fits: .*share of train.*: {MEND}"):
        sources.open_sources(configs.load("segment:finetune", data=f"masks:{tmp_path}"))


def test_a_mistake_in_all_of_the_data_is_told_as_it_is(tmp_path):
    folder(tmp_path, {"a": 3, "b": 3})
    config = configs.load("classify:finetune", data=f"folder:path={tmp_path},classes=a;c")
    with pytest.raises(UserError, match="label 'b', which is not in classes") as found:
        sources.open_sources(config)
    assert "share of train" not in str(found.value)

"""Runs that 0.1 trained: their folders load, are evaluated and gone on with as 0.1 would have gone on.

Each .zip of frozen/ holds a run of 4 steps of that version, with its checkpoint of step 2, the losses of all steps
and the scores of the last one.
"""

import json
import pathlib
import zipfile

import jax
import numpy as np
import pytest

from mapjax.config import load as configs
from mapjax.runs import fit, trained
from mapjax.runtime import log as logs
from mapjax.runtime import workdir

pytestmark = [pytest.mark.process, pytest.mark.usefixtures("plain_convolutions")]

FROZEN = pathlib.Path(__file__).parent / "frozen"


@pytest.mark.parametrize("name", ["classify", "detect", "segment"])
def test_a_run_of_an_earlier_version_goes_on(name, tmp_path):
    folder = tmp_path / name
    with zipfile.ZipFile(FROZEN / f"{name}.zip") as archive:
        archive.extractall(folder)
    before = json.loads((folder / "result.json").read_text())
    losses = {line["step"]: line["loss"] for line in logs.read(folder / "metrics.jsonl") if line["kind"] == "train"}
    loaded = trained.load(folder)
    assert loaded.step == 2
    assert sum(leaf.size for leaf in jax.tree.leaves(loaded.variables["params"])) == before["parameters"]

    config = configs.saved(workdir.read_json(folder / "config.json"))
    result = fit.fit(config, folder)
    assert result["steps"] == before["steps"] == 4
    lines = [line for line in logs.read(folder / "metrics.jsonl") if line["kind"] == "train"]
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    # Another processor rounds otherwise.
    np.testing.assert_allclose([line["loss"] for line in lines], list(losses.values()), rtol=1e-4)
    for figure, value in before["metrics"].items():
        assert result["metrics"][figure] == pytest.approx(value, abs=0.02), figure

"""The tables of a study, and its page: from the folders of runs that are written here by hand."""

import csv
import io
import json
import math
import zipfile

import numpy as np
import pytest

from mapjax.config import load as configs
from mapjax.errors import UserError
from mapjax.study import bundle, page, results, runs, statistics, sweep, tables
from mapjax.study import study as studies

COSTS = {"wall_s": 90.0, "parameters": 1000, "flops": 2e9, "peak_rss_mb": 512.0, "examples_per_s": 250.0}
FACTS = {"versions": {"jax": "1"}, "device": "cpu", "devices": 1, "mesh": {"data": 1}}
TOP = {"a": (0.70, 0.72, 0.71), "b": (0.90, 0.92, 0.915), "c_%": (0.71, 0.70, 0.72)}


def study_of(cells=TOP, metrics=None, tests=None) -> sweep.Study:
    made = tuple(sweep.Cell(name, {"rate": k}, configs.from_dict({"seed": k})) for k, name in enumerate(cells))
    return sweep.Study("s.py", None, {}, made, "a", metrics or {"top1": "max"}, (0, 1, 2), tests or {}, "recall", {})


def written(study, root, figures=TOP, missing=()):
    """Runs whose answers are right as often as their top-1 says."""
    listed = []
    for cell in study.cells:
        for seed in study.seeds:
            job = runs.Job(cell, seed, cell.config, root / "cells" / cell.name / f"seed-{seed}-x", "x")
            listed.append(job)
            if (cell.name, seed) in missing:
                continue
            top = figures[cell.name][seed]
            metrics = {"top1": top, "recall/0": top, "recall/1": -1.0, "nll": 1 - top}
            right = np.random.default_rng((seed, 1)).permutation(200) < round(200 * top)
            rows = [{"file": f"{k}", "label": "x", "predicted": "x" if good else "y"} for k, good in enumerate(right)]
            history = [
                {"kind": kind, "step": step, "loss": 1 / step, "top1": top * step / 20}
                for step in (10, 20)
                for kind in ("train", "eval")
            ]
            for folder in (job.folder, *runs.tests(job, study).values()):
                folder.mkdir(parents=True)
                (folder / "result.json").write_text(json.dumps({"metrics": metrics, **COSTS, **FACTS}))
                (folder / "predictions.json").write_text(json.dumps(rows))
            (job.folder / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in history))
            (job.folder / "report.html").write_text("<html></html>")
    return listed


def test_the_best_is_bold_where_it_differs(tmp_path):
    study = study_of()
    rows = results.collect(study, written(study, tmp_path))
    text = tables.markdown(study, rows)
    lines = text.splitlines()
    costs = ["minutes", "parameters", "GFLOP an example", "peak GB", "examples/s"]
    assert lines[0] == f"| {' | '.join(['cell', 'top1 ↑', 'Δ (p over seeds, images)', *costs])} |"
    assert lines[2].startswith("| a (baseline) | 0.7100 ± 0.0248 |  | 1.5 | 1,000 | 2 | 0.5 | 250 |")
    assert "**0.9117 ± 0.0259**" in lines[3] and "+0.2017 (0.001, 0.002)" in lines[3].replace("<0.001", "0.001")
    assert "**" not in lines[4]
    assert "by Holm's method" in text and "Student's 95 % interval" in text


def test_a_worse_cell_is_not_bold_where_less_is_better(tmp_path):
    study = study_of(metrics={"nll": "min"})
    rows = results.collect(study, written(study, tmp_path))
    found = {row.name: row.metrics["nll"] for row in rows}
    assert [name for name, one in found.items() if one.best] == ["b"]
    assert found["b"].images is None  # nothing that is known of single images
    assert found["b"].mean.value == pytest.approx(1 - np.mean(TOP["b"]))


def test_the_difference_of_noise_is_not_significant(tmp_path):
    study = study_of({"a": 0, "c_%": 0})
    rows = results.collect(study, written(study, tmp_path))
    assert not any(one.best for row in rows for one in row.metrics.values())


def test_missing_seeds_are_shown(tmp_path):
    study = study_of()
    listed = written(study, tmp_path, missing={("b", 1)})
    rows = results.collect(study, listed)
    other = next(row for row in rows if row.name == "b")
    assert other.missing == (1,)
    assert other.metrics["top1"].seeds.value == pytest.approx(np.mean([0.2, 0.205]))  # the same seeds of both
    text = tables.markdown(study, rows)
    assert (
        "| b (2 of 3 seeds) |" in text
        and "b has no figures of seed 1: its means and differences are of fewer seeds" in text
    )


def test_cells_without_any_figure_are_shown(tmp_path):
    study = study_of()
    rows = results.collect(study, written(study, tmp_path, missing={("b", 0), ("b", 1), ("b", 2)}))
    text = tables.markdown(study, rows)
    assert "| b (0 of 3 seeds) | – |" in text and "b has no figures at all" in text
    assert tables.comma_separated(study, rows).splitlines()[2].startswith("b,,")
    html = page.render(study, rows, tmp_path, {"revision": "abc", **results.as_dict(study, rows)})
    assert "b has no figures at all" in html
    assert [cell["name"] for cell in results.as_dict(study, rows)["cells"]] == list(TOP)


def test_the_baseline_without_figures_is_told(tmp_path):
    study = study_of()
    rows = results.collect(study, written(study, tmp_path, missing={("a", 0), ("a", 1), ("a", 2)}))
    assert rows[1].metrics["top1"].seeds is None
    assert "a, the baseline, has no figures of seed 0, 1, 2" in tables.markdown(study, rows)


def test_answers_to_other_images_are_not_paired(tmp_path):
    study = study_of()
    listed = written(study, tmp_path)
    for job in (job for job in listed if job.cell.name == "b"):
        path = job.folder / "predictions.json"
        path.write_text(json.dumps([{**row, "file": f"other-{row['file']}"} for row in json.loads(path.read_text())]))
    rows = results.collect(study, listed)
    assert rows[1].metrics["top1"].images is None and rows[1].metrics["top1"].seeds is not None
    assert rows[2].metrics["top1"].images is not None


def test_a_metric_that_was_not_reported_is_told(tmp_path):
    """And costs only its own place: the others are compared."""
    study = study_of(metrics={"top1": "max", "top_1": "max"})
    rows = results.collect(study, written(study, tmp_path))
    text = tables.markdown(study, rows)
    assert "a, seed 0 has reported no 'top_1'. Did you mean 'top1'" in text
    assert rows[1].metrics["top1"].best and "top_1" not in rows[1].metrics
    assert text.splitlines()[3].split(" | ")[3] == "–"
    assert "has reported no" in page.render(study, rows, tmp_path, {"revision": "x", **results.as_dict(study, rows)})


def test_a_metric_with_nothing_to_measure_is_not_averaged(tmp_path):
    study = study_of(metrics={"top1": "max", "recall/1": "max"})
    rows = results.collect(study, written(study, tmp_path))
    assert "a, seed 0 had nothing to measure 'recall/1' on" in tables.markdown(study, rows)
    assert all("recall/1" not in row.metrics for row in rows)


def test_a_worse_cell_is_never_bold(tmp_path):
    """The best by its mean, as it lacks the seed that is hardest; of the seeds that both have it is the worse."""
    figures = {"a": (0.50, 0.92, 0.90), "b": (0.0, 0.82, 0.805), "c_%": (0.49, 0.91, 0.89)}
    study = study_of(figures)
    rows = results.collect(study, written(study, tmp_path, figures, missing={("b", 0)}))
    found = {row.name: row.metrics["top1"] for row in rows}
    assert found["b"].mean.value > found["a"].mean.value and found["b"].seeds.value < 0
    assert not any(one.best for one in found.values())


def test_a_comparison_without_spread_counts_as_one(tmp_path):
    """Of three cells one differs by the same for every seed: its test says nothing, and the others pay for three."""
    figures = {"a": (0.7, 0.72, 0.71), "b": (0.8, 0.82, 0.81), "c": (0.9, 0.925, 0.91), "d": (0.6, 0.63, 0.61)}
    study = study_of(figures, metrics={"nll": "min"})
    rows = results.collect(study, written(study, tmp_path, figures))
    p = {row.name: row.metrics["nll"].seeds.p for row in rows[1:]}
    one = statistics.over_seeds([1 - v for v in figures["c"]], [1 - v for v in figures["a"]]).p
    assert math.isnan(p["b"])
    assert p["c"] == pytest.approx(3 * one)


def test_the_page_compares_classes_over_the_same_seeds(tmp_path):
    """Recall falls by 0.1 with each seed; the easiest seed is missing from the baseline."""
    figures = {"a": (0.9, 0.5, 0.6), "b": (0.8, 0.4, 0.5)}
    study = study_of(figures)
    listed = written(study, tmp_path, figures, missing={("a", 0)})
    lost = listed[-1].folder / "result.json"
    found = json.loads(lost.read_text())
    found["metrics"]["recall/2"] = 0.5
    lost.write_text(json.dumps(found))
    rows = results.collect(study, listed)
    html = page.render(study, rows, tmp_path, {"revision": "x", **results.as_dict(study, rows)})
    assert ">-0.100</td>" in html
    assert "a (baseline) (2 of 3 seeds)" in html and "nan" not in html


def test_nothing_finished(tmp_path):
    study = study_of()
    with pytest.raises(UserError, match="no cell of the study is finished yet"):
        results.collect(study, written(study, tmp_path, missing={(n, s) for n in TOP for s in range(3)}))


def test_tests_are_metrics_of_their_own(tmp_path):
    study = study_of(metrics={"top1": "max", "top1@dark": "max"}, tests={"dark": {}})
    rows = results.collect(study, written(study, tmp_path))
    assert rows[1].metrics["top1@dark"].by_seed == rows[1].metrics["top1"].by_seed
    assert rows[1].metrics["top1@dark"].images is not None


def test_csv_holds_the_figures(tmp_path):
    study = study_of()
    rows = results.collect(study, written(study, tmp_path))
    read = list(csv.DictReader(io.StringIO(tables.comma_separated(study, rows))))
    assert [line["cell"] for line in read] == list(TOP)
    assert float(read[1]["top1"]) == pytest.approx(np.mean(TOP["b"]))
    assert float(read[1]["top1 p over seeds"]) == rows[1].metrics["top1"].seeds.p
    assert float(read[1]["top1 p over images"]) == rows[1].metrics["top1"].images.p
    assert read[0]["top1 difference"] == "" and read[0]["minutes"] == "1.5"


def test_latex_has_no_sign_of_its_own_in_names(tmp_path):
    study = study_of()
    text = tables.latex(study, results.collect(study, written(study, tmp_path)))
    assert r"c\_\%" in text and r"\textbf{0.9117 $\pm$ 0.0259}" in text and "top1 $\\uparrow$" in text
    assert text.count("{") == text.count("}")


def test_the_page_links_to_reports(tmp_path):
    study = study_of()
    rows = results.collect(study, written(study, tmp_path))
    html = page.render(study, rows, tmp_path, {"revision": "abc", **results.as_dict(study, rows)})
    assert 'href="cells/b/seed-1-x/report.html"' in html and html.count("<script>") == 1
    for title in ("Table", "Differences", "Learning curves", "Classes", "Cells"):
        assert f"<h2>{title}</h2>" in html
    assert "recall of a" in html and "+0.202" in html


def test_values_are_plain_json(tmp_path):
    study = study_of()
    found = results.as_dict(study, results.collect(study, written(study, tmp_path, missing={("b", 1), ("b", 2)})))
    one = next(cell for cell in found["cells"] if cell["name"] == "b")
    assert one["metrics"]["top1"]["mean"] == {"value": 0.9, "half": None, "seeds": 1}
    json.dumps(found, allow_nan=False)


def test_a_bundle_is_the_study(tmp_path):
    study = study_of(("a", "b"))
    listed = written(study, tmp_path)
    rows = results.collect(study, listed)
    about = {"environment": results.environment(rows), "code": "x", **results.as_dict(study, rows)}
    bundle.write(tmp_path / "study.zip", study, listed, about)
    again, before = bundle.read(tmp_path / "study.zip")
    assert again.seeds == study.seeds and again.metrics == study.metrics and again.baseline == "a"
    assert [cell.config.to_dict() for cell in again.cells] == [cell.config.to_dict() for cell in study.cells]
    assert {one.verdict for one in bundle.compare(before, again, rows, about)} == {"the same bits"}
    bundle.require_seeds(before, (0, 2))
    with pytest.raises(UserError, match="--seeds 7: the bundle has the seeds 0, 1, 2 only"):
        bundle.require_seeds(before, (0, 7))


def test_what_was_not_reproduced_is_said(tmp_path):
    study = study_of()
    rows = results.collect(study, written(study, tmp_path / "one"))
    facts = {"environment": results.environment(rows), "code": "x"}
    before = json.loads(json.dumps({**facts, **results.as_dict(study, rows)}))
    moved = {**TOP, "a": (0.71, 0.72, 0.9)}
    now = results.collect(study, written(study, tmp_path / "two", moved, missing={("b", 1), ("b", 2)}))
    then, at_present = ({**before, "code": code, "revision": code} for code in ("old", "new"))
    assert bundle.say_what_differs(then, at_present) == ["the code is other: revision old then, new now"]
    compared = bundle.compare(before, study, now, facts)
    found = {one.run: one.verdict for one in compared}
    assert found["a, seed 0"] == "reproduced, but not bit for bit with the same code, device and versions"
    assert found["a, seed 1"] == "the same bits"
    assert found["a, seed 2"] == "NOT reproduced"
    assert found["b, seed 2"].startswith("NOT there")
    for other in ({"environment": {**facts["environment"], "device": ["tpu"]}}, {"code": "y"}):
        assert bundle.compare(before, study, now, facts | other)[0].verdict == "reproduced"
    assert "Of 9 figures 5 are the same bits and 3 not reproduced." in bundle.report(compared)


def test_the_tolerance_is_that_of_two_runs(tmp_path):
    """By the spread of all cells together: of 3 × 2 degrees of freedom, Student's t is 2.447."""
    study = study_of()
    rows = results.collect(study, written(study, tmp_path))
    facts = {"environment": results.environment(rows), "code": "x"}
    before = json.loads(json.dumps({**facts, **results.as_dict(study, rows)}))
    deviation = np.sqrt(np.mean([np.var(values, ddof=1) for values in TOP.values()]))
    for whole in (study, study._replace(cells=study.cells[:2])):
        (found,) = {one.tolerance for one in bundle.compare(before, whole, rows, facts)}
        assert found == pytest.approx(2.447 * np.sqrt(2) * deviation, rel=1e-3)


def test_the_data_of_a_bundle_may_be_elsewhere(tmp_path):
    """What a cell says of it besides the place still holds; of another format it does not."""
    path = tmp_path / "study.zip"
    data = {"name": "idx", "path": "/there", "classes": ["Coat", "Shirt"], "tail": 2.0}
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("study.json", json.dumps(BUNDLED))
        file.writestr("cells/a.json", json.dumps({"seed": 0, "data": data}))
    for given, expected in ((None, data), ("idx:/here", data | {"path": "/here"})):
        (cell,) = bundle.read(path, given)[0].cells
        assert cell.config.data.to_dict() == expected | {"classes": ("Coat", "Shirt")}
    (cell,) = bundle.read(path, "folder:/here")[0].cells
    assert cell.config.data.to_dict() == {"name": "folder", "path": "/here"}


@pytest.mark.parametrize("content", [None, b"no zip at all", b""])
def test_no_bundle(tmp_path, content):
    path = tmp_path / "study.zip"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"--from .*study\.zip"):
        bundle.read(path)


BUNDLED = {
    "experiment": "s.py", "data": None, "baseline": "a", "metrics": {"top1": "max"}, "seeds": [0], "tests": {},
    "by_class": "", "cells": [{"name": "a", "overrides": {}}],
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cells": [{"name": "../../evil", "overrides": {}}]}, "a name is that of a folder.*not '../../evil'"),
        ({"seeds": ["0/../../x"]}, "the seeds .* must be whole numbers"),
        ({"tests": {"../t": {}}}, "a name is that of a folder"),
        ({"metrics": {"top1": "up"}}, "must be 'max' or 'min'"),
        ({"baseline": "b"}, "the baseline 'b' is no cell"),
        ({"cells": [{"name": "a", "overrides": {}}] * 2}, "two cells the name 'a'"),
        ({"cells": [{"name": "a", "overrides": 5}]}, "no bundle of a study"),
        ({"cells": 5}, "no bundle of a study"),
        ({"metrics": 5}, "no bundle of a study"),
    ],
)
def test_a_bundle_that_may_not_be_run(tmp_path, changes, message):
    path = tmp_path / "study.zip"
    about = BUNDLED | changes
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("study.json", json.dumps(about))
        for name in ("a", "../../evil"):
            file.writestr(f"cells/{name}.json", json.dumps({"seed": 0, "data": {"name": "digits"}}))
    with pytest.raises(UserError, match=rf"--from .*study\.zip.*{message}"):
        bundle.read(path)


@pytest.mark.parametrize("content", [b"\xff\xfe no text", b"[1, 2]", b'"text"', b"{"])
@pytest.mark.parametrize("place", ["study.json", "cells/a.json"])
def test_a_bundle_of_other_things(tmp_path, place, content):
    path = tmp_path / "study.zip"
    with zipfile.ZipFile(path, "w") as file:
        for name, text in {"study.json": json.dumps(BUNDLED), "cells/a.json": "{}", place: content}.items():
            file.writestr(name, text)
    with pytest.raises(UserError, match=r"--from .*study\.zip( is no bundle|: cells/a.json is no config)"):
        bundle.read(path)


def test_a_bundle_with_a_damaged_stream(tmp_path):
    path = tmp_path / "study.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("study.json", json.dumps(BUNDLED | {"more": list(range(2000))}))
    damaged = bytearray(path.read_bytes())
    damaged[60:90] = bytes(30)
    path.write_bytes(damaged)
    with pytest.raises(UserError, match=r"--from .*study\.zip is no bundle"):
        bundle.read(path)


def test_one_seed_has_no_interval(tmp_path):
    study = study_of()._replace(seeds=(0,))
    rows = results.collect(study, written(study, tmp_path))
    assert math.isnan(rows[1].metrics["top1"].mean.half)
    assert tables.mean_text(rows[1].metrics["top1"]) == "0.9000"
    assert "(–, 0.002)" in tables.difference_text(rows[1].metrics["top1"])


@pytest.mark.parametrize("spoilt", ["[]", "{}", json.dumps({"metrics": {"top1": "x"}, **FACTS})])
def test_a_damaged_result_is_named(spoilt, tmp_path):
    study = study_of()
    listed = written(study, tmp_path)
    (listed[0].folder / "result.json").write_text(spoilt)
    with pytest.raises(UserError, match=r"result.json is damaged: .*; remove it"):
        results.collect(study, listed)


@pytest.mark.parametrize("spoilt", ["[]", "{", '{"cells": 3, "seeds": []}'])
def test_damaged_tables_are_replaced(spoilt, tmp_path):
    (tmp_path / "study.json").write_text(spoilt)
    studies.say_what_changed(tmp_path, study_of(), [])


def test_a_figure_that_was_no_number_is_not_compared():
    study = study_of({"a": (0.5,)})._replace(seeds=(0,))
    before = {"cells": [{"name": "a", "metrics": {"top1": {"by_seed": {"0": None}}}}]}
    about = {"environment": {}, "code": ""}
    assert bundle.compare(before | about, study, [results.Row("a", {}, {}, {}, (), {})], about) == []

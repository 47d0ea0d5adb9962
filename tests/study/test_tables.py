"""The tables of a study, and its page: from the folders of runs that are written here by hand."""

import csv
import io
import json
import math

import numpy as np
import pytest
from ml_collections import ConfigDict

from mapjax.errors import UserError
from mapjax.study import bundle, page, results, runs, sweep, tables

COSTS = {"wall_s": 90.0, "parameters": 1000, "flops": 2e9, "peak_rss_mb": 512.0, "examples_per_s": 250.0}
FACTS = {"versions": {"jax": "1"}, "device": "cpu", "devices": 1, "mesh": {"data": 1}}
TOP = {"a": (0.70, 0.72, 0.71), "b": (0.90, 0.92, 0.915), "c_%": (0.71, 0.70, 0.72)}


def study_of(cells=TOP, metrics=None, tests=None) -> sweep.Study:
    made = tuple(
        sweep.Cell(name, {"rate": k}, ConfigDict({"seed": 0, "rate": k}).lock()) for k, name in enumerate(cells)
    )
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
    assert found["b"].images is None  # nothing that is known of single pictures
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


def test_answers_to_other_pictures_are_not_paired(tmp_path):
    study = study_of()
    listed = written(study, tmp_path)
    for job in (job for job in listed if job.cell.name == "b"):
        path = job.folder / "predictions.json"
        path.write_text(json.dumps([{**row, "file": f"other-{row['file']}"} for row in json.loads(path.read_text())]))
    rows = results.collect(study, listed)
    assert rows[1].metrics["top1"].images is None and rows[1].metrics["top1"].seeds is not None
    assert rows[2].metrics["top1"].images is not None


def test_a_metric_that_was_not_reported(tmp_path):
    study = study_of(metrics={"top_1": "max"})
    with pytest.raises(UserError, match=r"a, seed 0 has reported no 'top_1'\. Did you mean 'top1'"):
        results.collect(study, written(study, tmp_path))


def test_a_metric_with_nothing_to_measure_is_not_averaged(tmp_path):
    study = study_of(metrics={"top1": "max", "recall/1": "max"})
    with pytest.raises(UserError, match="a, seed 0 had nothing to measure 'recall/1' on"):
        results.collect(study, written(study, tmp_path))


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
    study = study_of()
    listed = written(study, tmp_path)
    rows = results.collect(study, listed)
    about = {"environment": results.environment(rows), **results.as_dict(study, rows)}
    bundle.write(tmp_path / "study.zip", study, listed, about)
    again, before = bundle.read(tmp_path / "study.zip")
    assert again.seeds == study.seeds and again.metrics == study.metrics and again.baseline == "a"
    assert [cell.config.to_dict() for cell in again.cells] == [cell.config.to_dict() for cell in study.cells]
    assert {one.verdict for one in bundle.compare(before, rows, about["environment"])} == {"the same bits"}


def test_what_was_not_reproduced_is_said(tmp_path):
    study = study_of()
    listed = written(study, tmp_path / "one")
    rows = results.collect(study, listed)
    before = json.loads(json.dumps({"environment": results.environment(rows), **results.as_dict(study, rows)}))
    moved = {**TOP, "a": (0.71, 0.72, 0.9)}
    now = results.collect(study, written(study, tmp_path / "two", moved))
    then, at_present = ({**before, "code": code, "revision": code} for code in ("old", "new"))
    assert bundle.say_what_differs(then, at_present) == ["the code is other: revision old then, new now"]
    found = {one.run: one.verdict for one in bundle.compare(before, now, results.environment(now))}
    assert found["a, seed 0"] == "reproduced, but not bit for bit on the same device and versions"
    assert found["a, seed 1"] == "the same bits"
    assert found["a, seed 2"] == "NOT reproduced"
    other = {**results.environment(now), "device": ["tpu"]}
    assert bundle.compare(before, now, other)[0].verdict == "reproduced"
    report = bundle.report(bundle.compare(before, now, other))
    assert "Of 9 figures 7 are the same bits and 1 not reproduced." in report


@pytest.mark.parametrize("content", [None, b"no zip at all", b""])
def test_no_bundle(tmp_path, content):
    path = tmp_path / "study.zip"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"--from .*study\.zip"):
        bundle.read(path)


def test_one_seed_has_no_interval(tmp_path):
    study = study_of()._replace(seeds=(0,))
    rows = results.collect(study, written(study, tmp_path))
    assert math.isnan(rows[1].metrics["top1"].mean.half)
    assert tables.mean_text(rows[1].metrics["top1"]) == "0.9000"
    assert "(–, 0.002)" in tables.difference_text(rows[1].metrics["top1"])

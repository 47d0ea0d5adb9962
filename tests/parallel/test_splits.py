"""Every way to split a network gives the mathematics of one device, with the collectives it should have, no others."""

import json
import pathlib
import subprocess
import sys

import pytest

pytestmark = pytest.mark.process

DATA, FSDP, MODEL, PIPE = ("data",), ("fsdp",), ("model",), ("pipe",)
SUM, GATHER, PERMUTE = "all-reduce", "all-gather", "collective-permute"
BOTH = {(SUM, ("data", "fsdp")), (SUM, FSDP), (GATHER, FSDP)}
# task, mesh, options of make_step, the collectives of its step
CASES = {
    "vit data": ("vit", {"data": 8}, {}, {(SUM, DATA)}),
    "vit data, fsdp": ("vit", {"data": 2, "fsdp": 4}, {}, BOTH),
    "vit data, model": ("vit_flat", {"data": 2, "model": 4}, {}, {(SUM, DATA), (SUM, MODEL)}),
    "vit data, pipe": ("vit", {"data": 4, "pipe": 2}, {}, {(SUM, DATA), (SUM, PIPE), (PERMUTE, PIPE)}),
    "vit fsdp, model, pipe": (
        "vit",
        {"fsdp": 2, "model": 2, "pipe": 2},
        {},
        {(SUM, FSDP), (GATHER, FSDP), (SUM, MODEL), (SUM, PIPE), (PERMUTE, PIPE)},
    ),
    "vit recomputed": ("vit_remat", {"data": 4, "pipe": 2}, {}, {(SUM, DATA), (SUM, PIPE), (PERMUTE, PIPE)}),
    "vit dots kept": ("vit_dots", {"data": 8}, {}, {(SUM, DATA)}),
    "vit accumulated": ("vit", {"data": 8}, {"accumulate": 2}, {(SUM, DATA)}),
    "resnet data": ("resnet18", {"data": 8}, {}, {(SUM, DATA)}),
    "resnet data, fsdp, model": ("resnet18", {"data": 2, "fsdp": 2, "model": 2}, {}, BOTH | {(SUM, MODEL)}),
    "detector data": ("detector", {"data": 8}, {}, {(SUM, DATA)}),
    "detector data, fsdp, model": ("detector", {"data": 2, "fsdp": 2, "model": 2}, {}, BOTH | {(SUM, MODEL)}),
}


@pytest.fixture(scope="module")
def reports():
    program = pathlib.Path(__file__).with_name("splits.py")
    cases = json.dumps([case[:3] for case in CASES.values()])
    done = subprocess.run([sys.executable, str(program), cases], capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(zip(CASES, map(json.loads, done.stdout.splitlines()), strict=True))


@pytest.mark.parametrize("case", CASES)
def test_three_steps_equal_those_of_one_device(reports, case):
    report = reports[case]
    bound = 1e-3 if "detector" in case else 2e-5  # batch statistics and drawn proposals magnify rounding
    assert max(report["scalars"]) < bound
    assert report["params"] < bound


@pytest.mark.parametrize("case", CASES)
def test_the_step_has_the_collectives_that_it_should(reports, case):
    found = {(kind, tuple(axes)) for kind, axes, _ in reports[case]["collectives"]}
    assert found == CASES[case][3]


@pytest.mark.parametrize("case", [case for case in CASES if "fsdp" in case])
def test_what_is_gathered_is_parameters(reports, case):
    sizes = [size for kind, _, size in reports[case]["collectives"] if kind == GATHER]
    assert sizes and max(sizes) <= reports[case]["largest_parameter"]

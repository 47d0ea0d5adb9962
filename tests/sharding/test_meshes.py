"""Every way to split a network gives the mathematics of one device, with the collectives it should have, no others."""

import json
import pathlib
import re
import subprocess
import sys
from collections import Counter

import pytest

pytestmark = pytest.mark.process

DATA, FSDP, MODEL, PIPE = ("data",), ("fsdp",), ("model",), ("pipe",)
SUM, GATHER, PERMUTE = "all-reduce", "all-gather", "collective-permute"
BOTH = {(SUM, ("data", "fsdp")), (SUM, FSDP), (GATHER, FSDP)}
# task, mesh, options of make_step or the optimizer, the collectives of its step
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
    "vit muon fsdp, model, pipe": (
        "vit",
        {"fsdp": 2, "model": 2, "pipe": 2},
        {"optimizer": "muon"},
        None,  # it multiplies each matrix by itself, and brings its parts together in whatever way is short
    ),
    "vit recomputed": ("vit_remat", {"data": 4, "pipe": 2}, {}, {(SUM, DATA), (SUM, PIPE), (PERMUTE, PIPE)}),
    "vit dots kept": ("vit_dots", {"data": 8}, {}, {(SUM, DATA)}),
    "vit dropped": ("vit_dropped", {"data": 4, "model": 2}, {}, {(SUM, DATA), (SUM, MODEL)}),
    "vit accumulated": ("vit", {"data": 8}, {"accumulate": 2}, {(SUM, DATA)}),
    "basic blocks data, model": ("basic", {"data": 2, "model": 4}, {}, {(SUM, DATA), (SUM, MODEL)}),
    "bottlenecks data, model": (
        "bottleneck",
        {"data": 2, "model": 4},
        {},
        {(SUM, DATA), (SUM, MODEL)},
    ),
    "basic stack data, model, pipe": (
        "basic_stack",
        {"data": 2, "model": 2, "pipe": 2},
        {},
        {(SUM, DATA), (SUM, MODEL), (SUM, PIPE), (PERMUTE, PIPE)},
    ),
    "bottleneck stack fsdp, pipe": (
        "bottleneck_stack",
        {"fsdp": 4, "pipe": 2},
        {},
        {(SUM, FSDP), (GATHER, FSDP), (SUM, PIPE), (PERMUTE, PIPE)},
    ),
    "resnet data": ("resnet11", {"data": 8}, {}, {(SUM, DATA)}),
    "resnet recomputed": ("resnet_remat", {"data": 8}, {}, {(SUM, DATA)}),
    "resnet50 data": ("resnet50", {"data": 8}, {}, {(SUM, DATA)}),
    # Here and in the detector: the tiles of a CPU's fast convolution are made of whole kernels, so these are gathered
    # over `model` too.
    "resnet data, fsdp, model": (
        "resnet18_large",
        {"data": 2, "fsdp": 2, "model": 2},
        {},
        BOTH | {(SUM, MODEL), (GATHER, MODEL)},
    ),
    "vgg data, model": ("vgg", {"data": 2, "model": 4}, {}, {(SUM, DATA), (SUM, MODEL)}),
    "googlenet data, model": ("googlenet", {"data": 4, "model": 2}, {}, {(SUM, DATA), (SUM, MODEL)}),
    "mobilenet data, model": ("mobilenet", {"data": 2, "model": 4}, {}, {(SUM, DATA), (SUM, MODEL)}),
    "convnext data, model": ("convnext", {"data": 2, "model": 4}, {}, {(SUM, DATA), (SUM, MODEL)}),
    "detector data": ("detector", {"data": 8}, {}, {(SUM, DATA)}),
    "detector data, fsdp, model": (
        "detector",
        {"data": 2, "fsdp": 2, "model": 2},
        {},
        BOTH | {(SUM, MODEL), (GATHER, MODEL)},
    ),
}
# Long to compile, or each of its parts is in a quick one: an axis alone, a pipeline that keeps its maps, plain blocks.
SLOW = (
    "vit data",
    "vit data, pipe",
    "vit dots kept",
    "basic blocks data, model",
    "vit muon fsdp, model, pipe",
    "resnet recomputed",
    "resnet50 data",
    "resnet data, fsdp, model",
    "vgg data, model",
    "googlenet data, model",
    "mobilenet data, model",
    "convnext data, model",
    "detector data",
    "detector data, fsdp, model",
)


def run(cases):
    """Run the program; give the report of each case."""
    program = pathlib.Path(__file__).with_name("meshes.py")
    asked = json.dumps([CASES[case][:3] for case in cases])
    done = subprocess.run([sys.executable, str(program), asked], capture_output=True, text=True, timeout=1800)
    found = dict(zip(cases, map(json.loads, done.stdout.splitlines())))
    assert done.returncode == 0 and len(found) == len(cases), done.stderr[-3000:]
    return found


@pytest.fixture(scope="module")
def quick():
    return run([case for case in CASES if case not in SLOW])


@pytest.fixture(scope="module")
def slow():
    return run(SLOW)


@pytest.fixture
def report(request, case):
    return request.getfixturevalue("slow" if case in SLOW else "quick")[case]


MARKED = [pytest.param(case, marks=[pytest.mark.slow] if case in SLOW else []) for case in CASES]
every_case = pytest.mark.parametrize("case", MARKED)


@every_case
def test_three_steps_equal_those_of_one_device(report, case):
    """All in double precision, but for the softmax of JAX's attention and constants of the fast convolution."""
    bound = 1e-6 if "vit" in case or case == "bottleneck stack fsdp, pipe" else 1e-11
    assert max(report["losses"]) < bound
    assert max(report["scalars"]) < bound
    assert report["params"] < bound
    assert report["average"] < bound
    assert report["gradients"] < bound
    assert report["answers"] < bound


@pytest.mark.parametrize("case", [one for one in MARKED if CASES[one.values[0]][3]])
def test_the_step_has_the_collectives_that_it_should(report, case):
    found = {(kind, tuple(axes)) for kind, axes, _, _ in report["collectives"]}
    assert found == CASES[case][3]


@every_case
def test_optimizer_and_average_are_where_the_parameters_are(report, case):
    assert report["followed"] == [True] * (1 if "muon" in case else 2)


@every_case
def test_nothing_is_gathered_but_parameters(report, case):
    parameters = {size for pair in report["parameters"] for size in pair}
    gathered = {size for kind, _, size, _ in report["collectives"] if kind == GATHER}
    assert gathered <= parameters
    assert not gathered or not parameters & set(report["maps"]), "so that a map would be told from a parameter"


@pytest.mark.parametrize("case", [one for one in MARKED if not re.search("detector|muon", one.values[0])])
def test_no_more_is_sent_than_must_be(report, case):
    """Gradients once for each part of a batch; of each block four maps over `model`; one at each end of a pipeline.

    Of large images a CPU sums the gradients of 3×3 kernels as tiles, which have four times as many numbers.
    """
    name, sizes, options, _ = CASES[case]
    sent = Counter()
    for kind, axes, size, count in report["collectives"]:
        sent[kind, "batch" if set(axes) <= {"data", "fsdp"} else axes[0]] += size * count
    tiles = 4 if name.startswith(("resnet", "vgg")) or name == "bottleneck_stack" else 1
    gradients = tiles * sum(there for _, _, there in report["parameters"])
    assert sent[SUM, "batch"] <= options.get("accumulate", 1) * (gradients + 2 * report["statistics"] + 1024)
    assert sent[SUM, "model"] <= 4.01 * report["blocks"] * report["map"]
    assert sent[SUM, "pipe"] <= 2.01 * report["map"]
    ticks = 4 + sizes.get("pipe", 1) - 1
    assert sent[PERMUTE, "pipe"] <= 2.01 * ticks / 4 * report["map"]

import importlib.util

import pytest
from jax.experimental import topologies

from mapjax.errors import UserError
from mapjax.plan import chips, gpus, topology


def test_slices_are_taken_apart():
    chip, sides = chips.require_topology("v5e:16x16")
    assert (chip.name, sides) == ("v5e", (16, 16))
    assert chips.require_topology("v5p:4x4x12")[1] == (4, 4, 12)
    assert chips.require_topology("h200:8") == (chips.CHIPS["h200"], (8,))


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("v9:2x2", "there is no chip 'v9'.*v4, v5e, v5p, v6e, h100, h200, a100"),
        ("cpu:2", "there is no chip 'cpu'"),
        ("h100:2x2", "h100 has no node of '2x2'.*1, 2, 4, 8"),
        ("h100:16", "h100 has no node of '16'"),
        ("v5e", "no slice ''.*16x16"),
        ("v5e:3x3", "no slice '3x3'.*1x1, 2x2, 2x4"),
        ("v5e:32x32", "no slice '32x32'"),
        ("v5p:4x4x5", "no slice '4x4x5'.*multiples of 4"),
        ("v5p:4x4x-4", "no slice"),
        ("v5p:0x4x4", "no slice"),
    ],
)
def test_slices_that_do_not_exist(name, says):
    with pytest.raises(UserError, match=says):
        chips.require_topology(name)


def test_the_compiler_that_is_missing_is_named_with_its_mend(monkeypatch):
    monkeypatch.delenv("TPU_LIBRARY_PATH", raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"libtpu is not installed; install it with pip install -e '\.\[tpu\]'"):
        topology.prepare("v5e:2x2")


def test_the_compiler_for_gpus_that_is_missing(monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")

    def none(name):
        raise ModuleNotFoundError(name)

    for find in (lambda name: None, none):
        monkeypatch.setattr(importlib.util, "find_spec", find)
        with pytest.raises(UserError, match=r"h100:8 needs .* for GPUs.*pip install -e '\.\[cuda12\]' \(no GPU"):
            topology.prepare("h100:8")


def test_every_gpu_with_a_layout_is_described_to_the_compiler():
    for chip in chips.CHIPS.values():
        if chip.is_gpu:
            text = gpus.describe(chip)
            assert f"device_memory_size: {chip.hbm}\n" in text and "NVIDIA" in text
            assert chips.of_kind(gpus._DEVICES[chip.name].name) == chip
            # Cores × lanes × a fused multiply-add: what the maker says of float32, TFLOPs.
            one = gpus._DEVICES[chip.name]
            peak = {"h100": 67, "h200": 67, "a100": 19.5}[chip.name]
            assert 2 * one.cores * one.units * one.clock / 1e3 == pytest.approx(peak, rel=0.01)


def test_what_the_compiler_refuses_is_told(monkeypatch):
    def refuse(**options):
        raise RuntimeError(f"no {options['topology']}\nand more")

    monkeypatch.setattr(topologies, "get_topology_desc", refuse)
    with pytest.raises(UserError, match=r"--topology h200:4: .* refuses it: no 1x1x4$"):
        gpus.devices(chips.CHIPS["h200"], 4)


def test_a_library_that_is_not_there(monkeypatch, tmp_path):
    monkeypatch.setenv("TPU_LIBRARY_PATH", str(tmp_path / "libtpu.so"))
    with pytest.raises(UserError, match=r"no file .*libtpu\.so \(TPU_LIBRARY_PATH\)"):
        topology.prepare("v5e:2x2")


def test_the_local_devices_are_a_place_without_published_figures():
    place = topology.open_place(None)
    assert (place.local, place.chip.name, place.chip.flops) == (True, "cpu", None)
    assert len(place.devices) >= 1


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("TPU v5 lite", "v5e"),
        ("TPU v5", "v5p"),
        ("TPU v6 lite", "v6e"),
        ("TPU v4", "v4"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("cpu", "cpu"),
        ("abacus", "abacus"),
    ],
)
def test_chips_by_the_name_of_the_device(kind, name):
    assert chips.of_kind(kind).name == name


@pytest.mark.parametrize("name", [chip.name for chip in chips.CHIPS.values() if chip.clock])
def test_a_clock_gives_the_peak_of_whole_matrix_units(name):
    """Each unit of 128×128 (v6e: 256×256) does one multiply-add a cell and cycle; a chip has 4 or 8 of them."""
    chip = chips.CHIPS[name]
    side = 256 if name == "v6e" else 128
    units = chip.flops / (2 * side**2 * chip.clock)
    assert units == pytest.approx(4 if name in ("v5e", "v6e") else 8, rel=0.01)

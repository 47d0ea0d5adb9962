"""torch's two formats, written here by Python's own pickle under torch's names."""

import collections
import contextlib
import io
import logging
import os
import pickle
import struct
import sys
import types
import zipfile
from unittest import mock

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mapjax.errors import UserError
from mapjax.weights import files

WEIGHT = np.arange(24, dtype=np.float32).reshape(2, 3, 4) / 7


def refused(path, match):
    """Read a file that cannot be: the message is one sentence that names it."""
    with pytest.raises(UserError, match=match) as caught:
        files.read(path)
    message = str(caught.value)
    assert message.startswith(str(path)) and message.endswith((".", "?")) and "\n" not in message
    return message


class FloatStorage:
    """Stands for torch's class of the name."""

    def __init__(self, name, count):
        self.identity = ("storage", FloatStorage, name, "cpu", count)


def _rebuild_tensor_v2(*_):
    """Stands for torch's function of the name."""


class Strided:
    """What torch pickles of a tensor: a storage, an offset, a shape and strides."""

    def __init__(self, storage, offset, shape, strides, *more):
        self.call = storage, offset, shape, strides, False, collections.OrderedDict(), *more

    def __reduce__(self):
        return _rebuild_tensor_v2, self.call


FloatStorage.__module__, _rebuild_tensor_v2.__module__ = "torch", "torch._utils"


class _Pickler(pickle.Pickler):
    def persistent_id(self, obj):
        if isinstance(obj, FloatStorage):
            return (*obj.identity, None) if self.legacy else obj.identity
        return None


def pickled(value, legacy=False):
    """Pickle as torch does, by Python's pickle, under torch's names."""
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
    torch.FloatStorage, torch._utils = FloatStorage, utils
    utils._rebuild_tensor_v2 = _rebuild_tensor_v2
    out = io.BytesIO()
    with mock.patch.dict(sys.modules, {"torch": torch, "torch._utils": utils}):
        pickler = _Pickler(out, protocol=2)
        pickler.legacy = legacy
        pickler.dump(value)
    return out.getvalue()


def write_zip(path, data, storages, root="archive", compression=zipfile.ZIP_STORED, **more):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in {
            "data.pkl": data,
            **{f"data/{key}": part for key, part in storages.items()},
            **more,
        }.items():
            archive.writestr(f"{root}/{name}", content)
    return path


def write_legacy(path, data, storages, little=True):
    parts = [pickle.dumps(value, 2) for value in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": little})]
    parts += [data, pickle.dumps(list(storages), 2)]
    for content in storages.values():
        parts += [struct.pack("<q", len(content) // 4), content]
    path.write_bytes(b"".join(parts))
    return path


def write_torch(path, value, legacy=False, **storages):
    writer = write_legacy if legacy else write_zip
    return writer(path, pickled(value, legacy), {name: array.tobytes() for name, array in storages.items()})


def one_tensor(name="w"):
    return {name: Strided(FloatStorage("0", 24), 0, (2, 3, 4), (12, 4, 1))}


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_torch_views_of_a_shared_storage(legacy, tmp_path):
    storage = FloatStorage("0", 24)
    value = {
        "whole": Strided(storage, 0, (2, 3, 4), (12, 4, 1)),
        "turned": Strided(storage, 0, (4, 2, 3), (1, 12, 4)),
        "part": Strided(storage, 13, (2, 2), (4, 2)),
        "repeated": Strided(storage, 5, (3, 2), (0, 0)),
        "scalar": Strided(storage, 23, (), ()),
        "none": Strided(storage, 0, (0, 4), (4, 1), {}),
        "other": Strided(FloatStorage("1", 2), 0, (2,), (1,)),
    }
    path = write_torch(tmp_path / "w.pth", value, legacy, **{"0": WEIGHT, "1": np.float32([5, 6])})
    found = files.read(path)
    assert list(found) == list(value)
    flat = WEIGHT.ravel()
    wanted = {
        "whole": WEIGHT,
        "turned": WEIGHT.transpose(2, 0, 1),
        "part": [[flat[13], flat[15]], [flat[17], flat[19]]],
        "repeated": np.full((3, 2), flat[5]),
        "scalar": flat[23],
        "none": np.empty((0, 4)),
        "other": [5, 6],
    }
    for name, expected in wanted.items():
        np.testing.assert_array_equal(found[name], np.asarray(expected, np.float32), strict=True)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_torch_weights_in_a_checkpoint(legacy, tmp_path, caplog):
    optimizer = {"state": {0: {"step": Strided(FloatStorage("9", 1), 0, (), ())}}, "param_groups": [{"lr": 0.1}]}
    value = {"epoch": 3, "best": 0.5, "ema": one_tensor("e"), "model": {**one_tensor(), "version": 2}, "opt": optimizer}
    path = write_torch(tmp_path / "w.pth", value, legacy, **{"0": WEIGHT, "9": np.float32([1])})
    with caplog.at_level(logging.WARNING):
        found = files.read(path)
    assert list(found) == ["e"] and np.array_equal(found["e"], WEIGHT)
    assert caplog.messages == [f"{path}: taking the weights under 'ema', and not those under 'model'"]


@pytest.mark.parametrize(
    ("value", "taken"),
    [
        ({"state_dict": one_tensor("a"), "model": one_tensor("b")}, "a"),
        ({"model": {"state_dict": one_tensor("c")}}, "c"),
        ({"state_dict": {"epoch": 1}, "model_state_dict": one_tensor("d")}, "d"),
        ({"params": one_tensor("f"), "model_ema": one_tensor("e")}, "e"),
        ({"net": {**one_tensor("f"), **one_tensor("g")}, "ema": one_tensor("e")}, "fg"),
        ({"weights": one_tensor("f")}, "f"),
        ({"ema": one_tensor("e"), "optimizer": one_tensor("g")}, "e"),
        ({**one_tensor("h"), "model": "resnet50"}, "h"),
        (collections.OrderedDict(one_tensor("i")), "i"),
    ],
)
def test_which_weights_are_taken(value, taken, tmp_path):
    path = write_torch(tmp_path / "w.pth", value, **{"0": WEIGHT})
    assert list(files.read(path)) == list(taken)


def test_a_storage_that_no_weight_uses_is_not_read(tmp_path):
    value = {"model": one_tensor(), "optimizer": Strided(FloatStorage("missing", 9), 0, (9,), (1,))}
    assert list(files.read(write_torch(tmp_path / "w.pth", value, **{"0": WEIGHT}))) == ["w"]


def test_a_written_pth_is_torchs_format(tmp_path):
    path = tmp_path / "w.pth"
    files.write(path, {"w": WEIGHT, "b": np.array(2, np.int64)})
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        parts = {name: archive.read(name) for name in archive.namelist()}
    assert parts["archive/version"] == b"3\n" and parts["archive/byteorder"] == b"little"
    assert parts["archive/data/0"] == WEIGHT.tobytes() and parts["archive/data/1"] == struct.pack("<q", 2)

    class Names(pickle.Unpickler):
        def find_class(self, module, name):
            ordered = (module, name) == ("collections", "OrderedDict")
            return collections.OrderedDict if ordered else lambda *arguments: (f"{module}.{name}", arguments)

        def persistent_load(self, pid):
            return (pid[0], pid[1]()[0], *pid[2:])

    found = Names(io.BytesIO(parts["archive/data.pkl"])).load()
    assert type(found) is collections.OrderedDict and list(found) == ["w", "b"]
    rebuild, hooks = "torch._utils._rebuild_tensor_v2", collections.OrderedDict()
    storage = ("storage", "torch.FloatStorage", "0", "cpu", 24)
    assert found["w"] == (rebuild, (storage, 0, (2, 3, 4), (12, 4, 1), False, hooks))
    assert found["b"] == (rebuild, (("storage", "torch.LongStorage", "1", "cpu", 1), 0, (), (), False, hooks))


class Runs:
    """A pickle that makes a folder when it is executed."""

    def __init__(self, folder):
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


@pytest.mark.parametrize("kind", ["zip", "legacy", "header"])
def test_executable_pickle_is_refused_by_name(kind, tmp_path):
    path, made = tmp_path / "w.pth", tmp_path / "made"
    data = pickled({**one_tensor(), "model": Runs(made)}, legacy=kind == "legacy")
    if kind == "zip":
        write_zip(path, data, {"0": WEIGHT.tobytes()})
    elif kind == "legacy":
        write_legacy(path, data, {"0": WEIGHT.tobytes()})
    else:
        path.write_bytes(pickle.dumps(Runs(made)))
    refused(path, rf"executable pickle, which is not run: it asks for '{os.mkdir.__module__}\.mkdir'")
    assert not made.exists()


def test_a_legacy_file_cut_short_anywhere(tmp_path):
    path = write_torch(tmp_path / "w.pth", one_tensor(), legacy=True, **{"0": WEIGHT})
    whole = path.read_bytes()
    for end in range(1, len(whole), 7):
        path.write_bytes(whole[:end])
        refused(path, "cut short|is not a file of torch.save")


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_a_tensor_beyond_its_storage(legacy, tmp_path):
    path = tmp_path / "w.pth"
    for offset, shape, strides in [(1, (24,), (1,)), (0, (3, 3, 4), (12, 4, 1)), (24, (), ()), (0, (2, 2), (23, 1))]:
        value = {"w": Strided(FloatStorage("0", 24), offset, shape, strides)}
        write_torch(path, value, legacy, **{"0": WEIGHT})
        refused(path, r"cut short or damaged: tensor 'w' needs (25|36) elements of its storage, which has 24\.")
    for offset, shape, strides in [
        (-1, (2,), (1,)),
        (0, (2,), (-1,)),
        (0, (2.0,), (1,)),
        (0, (2,), ()),
        (0, "ab", "cd"),
    ]:
        write_torch(path, {"w": Strided(FloatStorage("0", 24), offset, shape, strides)}, legacy, **{"0": WEIGHT})
        refused(path, "a tensor without a storage, a size or strides|not a whole pickle")
    write_torch(path, {"w": Strided(FloatStorage("0", 24), 0, (2**30, 2**30), (0, 0))}, legacy, **{"0": WEIGHT})
    refused(path, "elements")
    write_torch(path, {"w": Strided(FloatStorage("0", 10**9), 0, (2,), (1,))}, legacy, **{"0": WEIGHT})
    refused(path, "storage '0'")
    write_torch(path, {"w": Strided(7, 0, (2,), (1,))}, legacy, **{"0": WEIGHT})
    refused(path, "damaged")


def test_no_tensors(tmp_path):
    for value in ({"epoch": 3}, [], {"layers": [Strided(FloatStorage("0", 24), 0, (2,), (1,))]}, {"model": {}}):
        refused(write_torch(tmp_path / "w.pth", value, **{"0": WEIGHT}), r"holds no tensors by name; save a state dict")


def test_zips_that_torch_does_not_write(tmp_path):
    path, data, storages = tmp_path / "w.pth", pickled(one_tensor()), {"0": WEIGHT.tobytes()}
    assert list(files.read(write_zip(path, data, storages, byteorder="little"))) == ["w"]
    refused(write_zip(path, data, storages, byteorder="big"), "big-endian")
    refused(write_zip(path, data, {}), r"has no 'archive/data/0'")
    refused(write_zip(path, data, storages, **{"constants.pkl": b"x"}), "TorchScript")
    refused(write_zip(path, data, storages, compression=zipfile.ZIP_DEFLATED), "is compressed")
    refused(write_zip(path, data, {"0": WEIGHT.tobytes()[:-4]}), r"storage '0' has 92 bytes, and its tensors need 96\.")
    write_zip(path, data, storages)
    path.write_bytes(path.read_bytes().replace(WEIGHT.tobytes(), WEIGHT.tobytes()[::-1]))
    refused(path, r"checksums: that of 'archive/data/0'")
    refused(write_legacy(path, pickled(one_tensor(), legacy=True), storages, little=False), "big-endian")
    conjugated = {"w": Strided(FloatStorage("0", 24), 0, (2,), (1,), {"conj": True})}
    refused(write_torch(path, conjugated, **{"0": WEIGHT}), "resolve_conj")


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.data())
@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_any_damage_is_told_or_harmless(legacy, tmp_path, data):
    value = {"model": {**one_tensor(), "b": Strided(FloatStorage("1", 2), 0, (2,), (1,))}, "epoch": 3}
    path, storages = tmp_path / "w.pth", {"0": WEIGHT.tobytes(), "1": bytes(8)}
    content = bytearray(pickled(value, legacy))
    for place in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=3)):
        content[place] = data.draw(st.integers(0, 255))
    (write_legacy if legacy else write_zip)(path, bytes(content), storages)
    with contextlib.suppress(UserError):
        for tensor in files.read(path).values():
            assert tensor.size < 2**48 and tensor.ndim <= 32
            np.array(tensor[(slice(2),) * tensor.ndim])  # its first and last bytes are there
            np.array(tensor[(slice(-2, None),) * tensor.ndim])


def test_a_storage_that_is_hardly_used_is_not_read(tmp_path):
    value = {"w": Strided(FloatStorage("0", 2**28), 0, (2,), (1,))}
    path = write_torch(tmp_path / "w.pth", value, legacy=True, **{"0": WEIGHT})
    data = path.read_bytes().replace(struct.pack("<q", 24), struct.pack("<q", 2**28))
    path.write_bytes(data)
    os.truncate(path, len(data) + 2**30)  # nothing of it is on the disk
    refused(path, "asks for more than 268,435,456 bytes that belong to no tensor")


def test_a_tensor_that_repeats_its_storage_has_an_end(tmp_path):
    for shape, fits in [((1000, 500), True), ((2**24, 2**23), False)]:
        path = write_torch(tmp_path / "w.pth", {"w": Strided(FloatStorage("0", 24), 0, shape, (0, 0))}, **{"0": WEIGHT})
        if fits:
            assert files.read(path)["w"].shape == shape
        else:
            refused(path, "over a storage of 24")


def test_nested_mappings_have_an_end(tmp_path, monkeypatch):
    inner = dict.fromkeys(map(str, range(60)))
    for _ in range(4):
        inner = dict.fromkeys(map(str, range(60)), inner)  # one mapping, reached in 60^5 ways
    write_torch(tmp_path / "w.pth", inner)
    monkeypatch.setattr("mapjax.weights.budget.ELEMENTS", 20_000)
    refused(tmp_path / "w.pth", "more than 20,000 entries of nested mappings")
    value = {}
    value["model"] = value
    refused(write_torch(tmp_path / "w.pth", value), "holds no tensors by name")


def test_modules_that_were_saved_apart_are_one_file(tmp_path):
    value = {"backbone": one_tensor("conv1.weight"), "head": {"fc": one_tensor("weight")}, "epoch": 3}
    path = write_torch(tmp_path / "w.pth", value, **{"0": WEIGHT})
    assert set(files.index(path).shapes) == {"backbone.conv1.weight", "head.fc.weight"}

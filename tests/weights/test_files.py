"""Weight files there and back, in every format, and every mistake."""

import io
import json
import os
import struct
import zipfile

import ml_dtypes
import numpy as np
import pytest

from mapjax.errors import UserError
from mapjax.weights import budget, files

WEIGHT = np.arange(24, dtype=np.float32).reshape(2, 3, 4) / 7
FORMATS = (".safetensors", ".npz", ".pth", ".pt", ".bin")


def refused(path, match):
    """Read a file that cannot be: the message is one sentence that names it."""
    with pytest.raises(UserError, match=match) as caught:
        files.read(path)
    message = str(caught.value)
    assert message.startswith(str(path)) and message.endswith((".", "?")) and "\n" not in message
    return message


@pytest.mark.parametrize("extension", FORMATS)
def test_there_and_back(extension, tmp_path):
    tensors = {
        "a.weight": WEIGHT,
        "a.scalar": np.array(3, np.int64),
        "empty": np.zeros((0, 3), np.float16),
        "half": WEIGHT.astype(np.float16),
        "double": WEIGHT.astype(np.float64),
        "mask": WEIGHT > 1,
        "bytes": np.arange(5, dtype=np.uint8),
        "file": np.arange(-3, 3, dtype=np.int8),
        "ä / ö": np.arange(3, dtype=np.int32),
        "columns": np.asfortranarray(WEIGHT[0]),
        "steps": WEIGHT[:, ::2, ::-1],
        "big": np.arange(4, dtype=">i2"),
        "brain": WEIGHT.astype(ml_dtypes.bfloat16),
    }
    path = tmp_path / f"w{extension}"
    files.write(path, tensors)
    found = files.read(path)
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        wanted = tensor.astype(np.float32) if name == "brain" else tensor
        assert found[name].dtype == wanted.dtype.newbyteorder("=") and found[name].shape == wanted.shape
        np.testing.assert_array_equal(found[name], wanted)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("extension", FORMATS)
def test_a_prefix_of_all_names_is_taken_off(extension, tmp_path):
    path = tmp_path / f"w{extension}"
    files.write(path, {"module.a": WEIGHT, "module._orig_mod.b": WEIGHT})
    assert set(files.read(path)) == {"a", "b"}
    files.write(path, {"module._orig_mod.a": WEIGHT})
    assert set(files.read(path)) == {"a"}
    files.write(path, {"module.a": WEIGHT, "b": WEIGHT})
    assert set(files.read(path)) == {"module.a", "b"}


def test_compressed_npz_is_read(tmp_path):
    np.savez_compressed(tmp_path / "w.npz", w=WEIGHT, zeros=np.zeros(10000))
    np.testing.assert_array_equal(files.read(tmp_path / "w.npz")["w"], WEIGHT)


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "w.npz"
    files.write(path, {"a": WEIGHT})

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np.lib.format, "write_array", full)
    with pytest.raises(UserError, match=r"w\.npz cannot be written \(No space left on device\)"):
        files.write(path, {"a": WEIGHT + 1})
    assert [entry.name for entry in tmp_path.iterdir()] == ["w.npz"]
    np.testing.assert_array_equal(files.read(path)["a"], WEIGHT)


def test_what_cannot_be_written(tmp_path):
    with pytest.raises(UserError, match=r"w\.h5 is no weight file: its name should end in \.safetensors, "):
        files.write(tmp_path / "w.h5", {"a": WEIGHT})
    with pytest.raises(UserError, match=r"w\.pth: \.pth holds no uint32, of which tensor 'a' is"):
        files.write(tmp_path / "w.pth", {"a": WEIGHT.astype(np.uint32)})
    with pytest.raises(UserError, match=r"w\.npz: \.npz holds no object, of which tensor 'a' is"):
        files.write(tmp_path / "w.npz", {"a": np.array([{}])})
    for extension in FORMATS:
        with pytest.raises(UserError, match=r"missing/w\.\w+ cannot be written \(.*[Nn]o such file"):
            files.write(tmp_path / "missing" / f"w{extension}", {"a": WEIGHT})
    assert not list(tmp_path.iterdir())


def test_missing_and_unknown_files(tmp_path):
    files.write(tmp_path / "resnet18.pth", {"a": WEIGHT})
    refused(tmp_path / "resnet81.pth", r"there is no such weight file\. Did you mean 'resnet18\.pth'\?")
    refused(tmp_path / "none" / "w.npz", r"there is no such weight file\.$")
    refused(tmp_path / "w.h5", r"there is no such weight file\.")
    (tmp_path / "w.pth").mkdir()
    refused(tmp_path / "w.pth", "cannot be read")


@pytest.mark.parametrize("extension", FORMATS)
def test_an_empty_file_and_one_of_another_format(extension, tmp_path):
    path = tmp_path / f"w{extension}"
    path.write_bytes(b"")
    refused(path, "is empty|is cut short")
    path.write_bytes(b"<!DOCTYPE html><html><body>404 not found</body></html>")
    refused(path, "is a web page and not the file that it tells of")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("photo.jpg", b"\xff\xd8")
    refused(path, r"is a zip, but not one of torch\.save or NumPy: it holds 'photo\.jpg'")


@pytest.mark.parametrize("extension", [".safetensors", ".npz", ".pth"])
def test_a_file_cut_short_anywhere(extension, tmp_path):
    path = tmp_path / f"w{extension}"
    files.write(path, {"w": WEIGHT})
    whole = path.read_bytes()
    for end in {*range(1, 60), *range(60, len(whole), 17), len(whole) - 1}:
        path.write_bytes(whole[:end])
        refused(path, "cut short|is not a file of torch.save")


def test_an_npz_whose_header_is_cut(tmp_path):
    """Each entry is whole for the archive; NumPy reads the header as Python's text, and fails in its ways."""
    path = tmp_path / "w.npz"
    stream = io.BytesIO()
    np.save(stream, WEIGHT)
    start, text = stream.getvalue()[:8], stream.getvalue()[10:]
    header = text[: text.index(b"}") + 1]
    for version in (start, start[:6] + b"\x02\x00"):
        for end in range(len(header)):
            size = struct.pack("<H" if version == start else "<I", end)
            with zipfile.ZipFile(path, "w") as archive:
                archive.writestr("w.npy", version + size + header[:end])
            refused(path, r"is no \.npz file of tensors: 'w\.npy' in it is not an array")


def test_safetensors_whose_sizes_lie(tmp_path):
    path = tmp_path / "w.safetensors"
    for shape, offsets, length in [([4], [0, 8], 8), ([4], [0, 16], 8), ([2**62], [0, 16], 16), ([4], [8, 24], 24)]:
        header = json.dumps({"w": {"dtype": "F32", "shape": shape, "data_offsets": offsets}}).encode()
        path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(length))
        refused(path, "is cut short, or is no safetensors file")
    path.write_bytes(struct.pack("<Q", 2**60) + b"{}")
    refused(path, "is cut short, or is no safetensors file")
    header = json.dumps({"w": {"dtype": "F8_E4M3", "shape": [4], "data_offsets": [0, 4]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
    refused(path, "dtype that NumPy does not have")


def npy(shape, data, descr="<f4"):
    out = io.BytesIO()
    np.lib.format.write_array_header_1_0(out, {"descr": descr, "fortran_order": False, "shape": shape})
    return out.getvalue() + data


def test_npz_whose_sizes_lie(tmp_path, monkeypatch):
    path = tmp_path / "w.npz"
    for shape in [(4,), (10**15,), (-2, -1), (0, 2**70), (2**40, 2**40)]:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("w.npy", npy(shape, bytes(0 if 0 in shape else 8)))
        refused(path, "is damaged: tensor 'w' has")
    for content, match in [(b"text", "is not an array"), (npy((2,), bytes(4), "<V2"), "keeps no bfloat16")]:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("w.npy", content)
        refused(path, match)
    np.savez_compressed(path, w=np.zeros(100_000, np.float32))
    monkeypatch.setattr(budget, "UNPACKED", 1000)
    refused(path, r"asks for more than [\d,]+ unpacked bytes, .* MAPJAX_WEIGHTS_BUDGET=10 ")


@pytest.mark.parametrize("extension", [".npz", ".safetensors", ".pth"])
def test_no_tensors(extension, tmp_path):
    files.write(tmp_path / f"w{extension}", {})
    refused(tmp_path / f"w{extension}", "holds no tensors")


class Runs:
    """A pickle that makes a folder when it is executed."""

    def __init__(self, folder):
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


def test_objects_in_an_npz_are_not_unpickled(tmp_path):
    path, made = tmp_path / "w.npz", tmp_path / "made"
    np.savez(path, w=WEIGHT, model=np.array(Runs(made), dtype=object))
    refused(path, "holds 'model' of dtype object, which is no number")
    assert not made.exists()

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


def test_the_content_tells_the_format(tmp_path):
    for written, called in [("a.safetensors", "b.pth"), ("a.npz", "b.ckpt"), ("a.pth", "b.npz"), ("a.pt", "b")]:
        files.write(tmp_path / written, {"w": WEIGHT})
        (tmp_path / written).rename(tmp_path / called)
        np.testing.assert_array_equal(files.read(tmp_path / called)["w"], WEIGHT)


def test_what_is_taken_for_weights_is_told(tmp_path):
    path = tmp_path / "w.pth"
    for content, match in [
        (b"version https://git-lfs.github.com/spec/v1\noid", "a pointer of Git LFS .* git lfs pull"),
        (b"\x89HDF\r\n\x1a\n", "an HDF5 file, as Keras writes"),
        (b"\x1f\x8b\x08\x00", "a compressed archive; unpack it first"),
        (b'{"metadata": {}}', "is JSON"),
        (b"\x1b[31mred", r"begins with b'\\x1b\[31mred'; known are"),
    ]:
        path.write_bytes(content)
        assert "\x1b" not in refused(path, match)
    path.unlink()
    os.mkfifo(path)
    refused(path, "is no regular file")


def test_names_from_a_file_reach_no_terminal(tmp_path):
    for extension in (".pth", ".npz"):
        path = tmp_path / f"w{extension}"
        files.write(path, {"w\x1b[31m": WEIGHT})
        path.write_bytes(path.read_bytes().replace(WEIGHT.tobytes(), WEIGHT.tobytes()[::-1]))
        assert "\x1b" not in refused(path, "is wrong")
    header = json.dumps({"w": {"dtype": "F\x1b[31m", "shape": [2], "data_offsets": [0, 8]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))
    assert "\x1b" not in refused(path, "no safetensors file")


def test_budgets_of_headers_names_and_tensors(tmp_path, monkeypatch):
    for extension in (".safetensors", ".npz", ".pth"):
        path = tmp_path / f"w{extension}"
        files.write(path, {"name" * 20: WEIGHT, "b": WEIGHT})
        for limit, amount, what in [("NAME", 79, "characters of a tensor's name"), ("TENSORS", 1, "tensors")]:
            with monkeypatch.context() as patch:
                patch.setattr(budget, limit, amount)
                refused(
                    path, rf"asks for more than {amount} {what}, which weights do not need; .* ten times as much\.$"
                )
        monkeypatch.setattr(budget, "HEADER", 50)
        refused(path, "more than 50 bytes of a (header|zip's table of contents)")
        monkeypatch.undo()


def test_npz_headers_are_read_to_a_length(tmp_path):
    path = tmp_path / "w.npz"
    for header in (
        b"(" * 9000,
        b"-" * 9000 + b"1",
        b"{'descr': '<f4', 'fortran_order': False, 'shape': [2]}",
        b"{1: 2}",
    ):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("w.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + bytes(8))
        refused(path, "'w.npy' in it is not an array")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("w.npy", b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**28) + bytes(2**20))
    refused(path, "'w.npy' in it is not an array")


def test_members_that_overlap(tmp_path):
    """Entries of the table of contents that together are longer than the file: bombs without compression."""
    path = tmp_path / "w.pth"
    files.write(path, {"w": np.zeros(300, np.float32)})
    data = bytearray(path.read_bytes())
    entry = data.index(b"PK\x01\x02")
    data[entry + 20 : entry + 28] = struct.pack("<II", 9000, 9000)
    path.write_bytes(data)
    refused(path, "longer than the file, so that they overlap")


@pytest.mark.parametrize("extension", [".npz", ".safetensors", ".pth"])
def test_a_file_that_changes_while_it_is_read(extension, tmp_path):
    path = tmp_path / f"w{extension}"
    files.write(path, {"a": WEIGHT})
    found = files.index(path)
    files.write(path, {"b": WEIGHT[0]})
    with pytest.raises(UserError, match=f"^{path} "):
        found.read(["a"])

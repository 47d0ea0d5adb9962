"""Files of torch's own making, bit for bit, and ours in torch."""

import collections

import ml_dtypes
import numpy as np
import pytest

from mapjax.errors import UserError
from mapjax.weights import files, names

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.parity


def torch_tensors():
    base = torch.randn(4, 5, 6)
    floats = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64, torch.complex128)
    others = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool)
    parameter = torch.nn.Parameter(torch.ones(2))
    parameter.note = "an attribute"
    return {str(kind): (torch.randn(3, 4) * 10).to(kind) for kind in (*floats, *others)} | {
        "turned": base.permute(2, 0, 1),
        "steps": base[1:, ::2, 3],
        "repeated": base[0, 0, :1].expand(7, 1),
        "scalar": torch.tensor(3.5),
        "empty": torch.zeros(0, 3),
        "parameter": torch.nn.Parameter(torch.ones(3)),
        "noted": parameter,
        "shared": base,
    }


def assert_same_bits(found, wanted):
    assert list(found) == list(wanted)
    for name, tensor in wanted.items():
        widened = tensor.float() if tensor.dtype == torch.bfloat16 or "float8" in str(tensor.dtype) else tensor
        expected = widened.detach().numpy()
        assert found[name].dtype == expected.dtype and found[name].shape == expected.shape
        assert np.ascontiguousarray(found[name]).tobytes() == expected.tobytes()


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("as_zip", [True, False], ids=["zip", "legacy"])
def test_torch_files_bit_for_bit(as_zip, protocol, tmp_path):
    tensors, path = torch_tensors(), tmp_path / "w.pth"
    if as_zip:
        tensors |= {"uint16": torch.arange(5).to(torch.uint16), "float8": torch.randn(9).to(torch.float8_e4m3fn)}
    network = torch.nn.DataParallel(torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4)))
    optimizer = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9)
    about = {"epoch": 3, "optimizer": optimizer.state_dict(), "seen": {"a", 2}, "raw": b"\x80", "big": 2**70}
    for value, wanted in [
        (tensors, tensors),
        (collections.OrderedDict(tensors), tensors),
        ({**about, "model": tensors}, tensors),
        (network.state_dict(), network.module.state_dict()),
    ]:
        torch.save(value, path, _use_new_zipfile_serialization=as_zip, pickle_protocol=protocol)
        assert_same_bits(files.read(path), wanted)
    torch.save(network, path, _use_new_zipfile_serialization=as_zip, pickle_protocol=protocol)
    with pytest.raises(UserError, match=r"asks for 'torch\.nn\.parallel\.data_parallel\.DataParallel'"):
        files.read(path)


@pytest.mark.parametrize("mapped", [False, True])
def test_torch_loads_what_is_written(mapped, tmp_path):
    tensors = {name: t for name, t in torch_tensors().items() if t.dtype != torch.bfloat16}
    arrays = {name: tensor.detach().numpy() for name, tensor in tensors.items()}
    brain = torch.randn(5).to(torch.bfloat16)
    files.write(tmp_path / "w.pth", {**arrays, "brain": brain.float().numpy().astype(ml_dtypes.bfloat16)})
    found = torch.load(tmp_path / "w.pth", weights_only=True, mmap=mapped)
    assert type(found) is collections.OrderedDict and list(found) == [*tensors, "brain"]
    for name, tensor in {**tensors, "brain": brain}.items():
        assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor)


def test_safetensors_of_torch_bit_for_bit(tmp_path):
    save_file = pytest.importorskip("safetensors.torch").save_file
    dropped = ("torch.complex128",)
    tensors = {n: t.detach().clone().contiguous() for n, t in torch_tensors().items() if n not in dropped}
    save_file(tensors, tmp_path / "w.safetensors")
    assert_same_bits(dict(sorted(files.read(tmp_path / "w.safetensors").items())), dict(sorted(tensors.items())))


def test_efficientnet_lite0_bit_for_bit(tmp_path, monkeypatch):
    try:
        path = names.fetch("efficientnet_lite0")
    except UserError as error:
        pytest.skip(str(error))
    found = files.read(path)
    assert_same_bits(found, torch.load(path, weights_only=True))
    assert sum(tensor.size for name, tensor in found.items() if "running" not in name and tensor.ndim) == 4_652_008
    files.write(tmp_path / "w.pth", found)
    assert_same_bits(found, torch.load(tmp_path / "w.pth", weights_only=True))

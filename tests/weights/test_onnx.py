"""ONNX files: whole ones, other ones and damaged ones; and how those of YOLOX fill a network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from onnx_files import BIAS, KERNEL, convolutions, field, model, node, tensor

from mapjax import weights
from mapjax.errors import UserError
from mapjax.models.backbones import csp_darknet
from mapjax.models.detectors import yolox as networks
from mapjax.weights import budget, files, fitting, onnx, yolox


def written(tmp_path, content, name="net.onnx"):
    path = tmp_path / name
    path.write_bytes(content)
    return path


def refused(path, match):
    with pytest.raises(UserError, match=match) as caught:
        files.read(path)
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


def test_convolutions_by_their_names(tmp_path):
    path = written(tmp_path, convolutions(("stem.weight", "stem.bias"), ("head.weight", "head.bias")), "weights")
    found = files.read(path)
    assert list(found) == ["stem.weight", "stem.bias", "head.weight", "head.bias"], "by content, in the graph's order"
    np.testing.assert_array_equal(found["stem.weight"], KERNEL)
    np.testing.assert_array_equal(found["head.bias"], BIAS)


@pytest.mark.parametrize("names", [(("607", "608"), ("9", "10")), (("onnx::Conv_8", "onnx::Conv_9"), ("h.w", "h.b"))])
def test_numbers_are_no_names(names, tmp_path):
    found = files.read(written(tmp_path, convolutions(*names)))
    assert list(found) == ["Conv.0.weight", "Conv.0.bias", "Conv.1.weight", "Conv.1.bias"]


@pytest.mark.parametrize(
    ("options", "dtype"),
    [
        ({"packed": True}, "float32"),
        ({"raw": False}, "float32"),
        ({"code": 10}, "float16"),
        ({"code": 11}, "float64"),
        ({"code": 7}, None),
    ],
)
def test_forms_of_a_tensor(options, dtype, tmp_path):
    kernel = KERNEL.astype(dtype or "int64")
    path = written(tmp_path, model([node("Conv", "x", "w")], [tensor("w", kernel, **options)]))
    if dtype is None:
        return refused(path, "holds no convolutions with weights of their own")
    found = files.read(path)["w"]
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, kernel)


def test_wherever_it_is_cut_it_is_told(tmp_path):
    content = convolutions(("w", "b"))
    path, behind = tmp_path / "net.onnx", len(field(8, field(2, 11)))
    for length in range(1, len(content)):
        path.write_bytes(content[:length])
        if length == len(content) - behind:
            assert len(files.read(path)) == 2, "all but what is not looked at"
        else:
            refused(path, "is cut short|is no ONNX file")


def test_whatever_byte_is_wrong_it_is_read_or_told(tmp_path):
    content = bytearray(convolutions(("w", "b")))
    path, rng = tmp_path / "net.onnx", np.random.default_rng(0)
    told = []
    for place in range(1, len(content)):
        wrong = content.copy()
        wrong[place] ^= int(rng.integers(1, 256))
        path.write_bytes(wrong)
        try:
            files.read(path)
        except UserError as error:
            told.append(str(error))
    assert len(told) > 60 and all(one.startswith(str(path)) and "\n" not in one for one in told)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (field(1, 6), "is no ONNX file, or holds no graph"),
        (field(1, 6) + b"\x0b", "is damaged, or no ONNX file: a field of its protocol buffer has the kind 3"),
        (field(1, 6) + b"\xff" * 12, "a number of its protocol buffer ends beyond it"),
        (model([node("MatMul", "x", "w")], [tensor("w", KERNEL)]), "holds no convolutions"),
        (model([node("Conv", "x", "w")], [tensor("w", KERNEL)[:-4] + b"abcd"]), None),
        (
            model([node("Conv", "x", "w")], [tensor("w", KERNEL) + field(1, 2)]),
            r"the tensor 'w' has 144 bytes, and \(4, 1, 3, 3\) elements",
        ),
        (model([node("Conv", "x", "w")], [tensor("w", KERNEL) + field(14, 1)]), "has the tensor 'w' in a file beside"),
        (
            model([node("Conv", "x", "w")], [field(2, 1) + b"".join(field(1, 1) for _ in range(40))]),
            "more than 32 dimensions",
        ),
        (model([node("Conv", "x", "w" * 2000)], []), "more than 1,000 characters of a tensor's name"),
    ],
)
def test_files_that_are_wrong(content, match, tmp_path):
    path = written(tmp_path, content)
    if match is None:
        assert files.read(path)
    else:
        refused(path, match)


def test_no_more_fields_than_weights_need(tmp_path, monkeypatch):
    monkeypatch.setattr(budget, "ELEMENTS", 40)
    assert files.read(written(tmp_path, convolutions(("w", "b"))))
    refused(written(tmp_path, model([node("Relu", "x")] * 40, [])), "more than 40 fields of a protocol buffer")
    monkeypatch.setattr(onnx, "BUFFER", 10)
    refused(tmp_path / "net.onnx", "more than 10 bytes of a protocol buffer")


def shapes_of(size, classes=80):
    net = networks.make(size=size, classes=classes)
    image = jax.ShapeDtypeStruct((1, 32, 32, 3), np.float32)
    return jax.eval_shape(net.init, jax.random.key(0), image)


@pytest.mark.parametrize(("size", "depth"), [("nano", 1), ("m", 2)])
def test_yolox_in_the_order_of_its_graph(size, depth):
    """All convolutions of a network, once; numbered, they find their places."""
    shapes = weights.shapes(shapes_of(size))
    names = yolox.convolutions(depth, depthwise=size == "nano")
    kernels = {name.removesuffix(".weight").removesuffix(".conv") for name in shapes if len(shapes[name]) == 4}
    assert len(names) == len(set(names)) and set(names) == kernels
    folded = {}
    for number, name in enumerate(names):
        kernel = shapes.get(f"{name}.conv.weight") or shapes[f"{name}.weight"]
        folded[f"Conv.{number}.weight"] = np.broadcast_to(np.float32(number), kernel)
        folded[f"Conv.{number}.bias"] = np.full(kernel[0], -number, np.float32)
    (found,) = yolox.renamings(folded)
    assert {name: array.shape for name, array in found.items()} == shapes
    assert found["head.obj_preds.2.bias"][0] == 1 - len(names) == -found["head.obj_preds.2.weight"].flat[0]
    assert (
        found["backbone.backbone.stem.conv.bn.bias"][0] == 0
        and found["backbone.backbone.stem.conv.conv.weight"].max() == 0
    )
    del folded["Conv.3.bias"]
    assert not list(yolox.renamings(folded)) and not list(yolox.renamings({"a": BIAS}))


def test_a_folded_normalization_changes_nothing():
    """1·(x − 0)/√(1 − ε + ε) + b, to the bit."""
    unit = csp_darknet.Unit(4)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 3, 3, 2)), jnp.float32)
    variables = unit.init(jax.random.key(0), x, False)
    folded = {
        name: jnp.asarray(array)
        for name, array in yolox._unfolded({"Conv.0.weight": KERNEL, "Conv.0.bias": BIAS}, 0, "a")
    }
    variables["params"]["bn"] = {"scale": folded["a.bn.weight"], "bias": folded["a.bn.bias"]}
    variables["stats"]["bn"] = {"mean": folded["a.bn.running_mean"], "var": folded["a.bn.running_var"]}
    got = unit.apply(variables, x, False)
    plain = jnp.einsum("bhwc,cd->bhwd", x, variables["params"]["conv"]["kernel"][0, 0]) + BIAS
    np.testing.assert_array_equal(got, jax.nn.silu(plain))
    assert yolox.EPSILON == csp_darknet.EPSILON


def test_a_file_fills_a_network(tmp_path):
    """Through its bytes, with the classes of the file and with others."""
    shapes = shapes_of("nano", classes=3)
    wanted, rng = weights.shapes(shapes), np.random.default_rng(0)
    names, tensors, nodes = yolox.convolutions(1, depthwise=True), [], []
    for number, name in enumerate(names):
        kernel = wanted.get(f"{name}.conv.weight") or wanted[f"{name}.weight"]
        tensors += [tensor(f"{2 * number}", rng.normal(size=kernel).astype(np.float32))]
        tensors += [tensor(f"{2 * number + 1}", rng.normal(size=kernel[0]).astype(np.float32))]
        nodes += [node("Conv", "x", f"{2 * number}", f"{2 * number + 1}")]
    path = written(tmp_path, model(nodes, tensors))
    part = fitting.best(weights.index(str(path)), wanted, str(path))
    filled = weights.from_torchvision(part.tensors, shapes)
    stem = np.frombuffer(tensors[0][-16 * 12 * 9 * 4 :], np.float32).reshape(16, 12, 3, 3)
    np.testing.assert_array_equal(
        filled["params"]["backbone"]["backbone"]["stem"]["conv"]["conv"]["kernel"], stem.transpose(2, 3, 1, 0)
    )
    assert (filled["stats"]["head"]["stems"]["0"]["bn"]["var"] == np.float32(1 - 1e-3)).all()

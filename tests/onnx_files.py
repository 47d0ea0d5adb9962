"""ONNX files, byte by byte, as `onnx.proto` has them."""

import numpy as np

KERNEL = np.arange(36, dtype=np.float32).reshape(4, 1, 3, 3) / 7
BIAS = np.float32([1, -2, 3, 0.5])


def varint(value):
    out = b""
    while value > 127:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    return out + bytes([value])


def field(number, value):
    """A number, or a text, or bytes."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    value = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(value)) + value


def tensor(name, array, *, packed=False, raw=True, code=1):
    dims = [field(1, b"".join(map(varint, array.shape)))] if packed else [field(1, size) for size in array.shape]
    return b"".join([*dims, field(2, code), field(8, name), field(9 if raw else 4, array.tobytes())])


def node(operation, *inputs):
    return b"".join([*(field(1, one) for one in inputs), field(2, "out"), field(4, operation)])


def model(nodes, tensors):
    graph = [*(field(1, one) for one in nodes), field(2, "net"), *(field(5, one) for one in tensors)]
    opset = field(8, field(2, 11))  # behind the graph
    return field(1, 6) + field(2, "pytorch") + field(7, b"".join(graph)) + opset


def convolutions(*names):
    """A network of convolutions with the kernel and bias of these names, in this order, stored in another."""
    nodes = [node("Conv", "x", *pair) for pair in names]
    nodes.insert(1, node("Mul", "x", "scale"))
    stored = [one for kernel, bias in reversed(names) for one in (tensor(bias, BIAS), tensor(kernel, KERNEL))]
    return model(nodes, [tensor("scale", BIAS), *stored])

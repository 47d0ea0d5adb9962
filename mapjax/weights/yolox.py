"""YOLOX' ONNX files: their convolutions, into which normalization was folded, under the names of its .pth files.

A file's convolutions are told apart by their order in the graph. One with the folded kernel K and bias b is the same
as the kernel K and a normalization with the scale 1, the bias b, the mean 0 and, for its variance plus epsilon to be 1,
the variance 1 − ε: the network answers as the file does. With `norm="batch"` in training it would not: the statistics
of a batch would take the place of the folded ones. So one goes on from such a file with `norm="frozen"`.
"""

import re
from collections.abc import Iterator, Mapping

import numpy as np

EPSILON = 1e-3  # of YOLOX' batch normalization
_NUMBERED = re.compile(r"Conv\.(\d+)\.(weight|bias)")
_MOST = 8  # bottlenecks of its shortest stage; the largest size has 4
_PLACES = {"cls": ("cls_preds",), "reg": ("reg_preds", "obj_preds")}  # what each branch of the head ends in


def renamings(tensors: Mapping[str, np.ndarray]) -> Iterator[dict[str, np.ndarray]]:
    """Give tensors named by the order of convolutions under YOLOX' names, if there are as many as some YOLOX has."""
    found = [_NUMBERED.fullmatch(name) for name in tensors]
    if not found or not all(found) or len(found) % 2:
        return
    for depthwise in (False, True):
        for depth in range(1, _MOST + 1):
            names = convolutions(depth, depthwise)
            if 2 * len(names) == len(found) and all(f"Conv.{i}.bias" in tensors for i in range(len(names))):
                yield {new: tensor for i, name in enumerate(names) for new, tensor in _unfolded(tensors, i, name)}


def _unfolded(tensors: Mapping[str, np.ndarray], number: int, name: str) -> Iterator[tuple[str, np.ndarray]]:
    kernel, bias = tensors[f"Conv.{number}.weight"], tensors[f"Conv.{number}.bias"]
    if "_preds." in name:  # has no normalization
        yield from ((f"{name}.weight", kernel), (f"{name}.bias", bias))
        return
    yield f"{name}.conv.weight", kernel
    yield f"{name}.bn.weight", np.ones(bias.shape, np.float32)
    yield f"{name}.bn.bias", bias
    yield f"{name}.bn.running_mean", np.zeros(bias.shape, np.float32)
    yield f"{name}.bn.running_var", np.full(bias.shape, 1 - EPSILON, np.float32)


def convolutions(depth: int, depthwise: bool) -> list[str]:
    """List YOLOX' convolutions in the order in which an image goes through them, without ".conv".

    Args:
      depth: bottlenecks of the shortest stage.
      depthwise: whether 3×3 convolutions are two.
    """

    def spatial(name: str) -> list[str]:
        return [f"{name}.dconv", f"{name}.pconv"] if depthwise else [name]

    def block(name: str, count: int) -> list[str]:
        inner = [one for i in range(count) for one in (f"{name}.m.{i}.conv1", *spatial(f"{name}.m.{i}.conv2"))]
        return [f"{name}.conv1", f"{name}.conv2", *inner, f"{name}.conv3"]

    found = ["backbone.backbone.stem.conv"]
    for stage, count in ((2, depth), (3, 3 * depth), (4, 3 * depth)):
        found += [*spatial(f"backbone.backbone.dark{stage}.0"), *block(f"backbone.backbone.dark{stage}.1", count)]
    last = "backbone.backbone.dark5"
    found += [*spatial(f"{last}.0"), f"{last}.1.conv1", f"{last}.1.conv2", *block(f"{last}.2", depth)]
    found += ["backbone.lateral_conv0", *block("backbone.C3_p4", depth)]
    found += ["backbone.reduce_conv1", *block("backbone.C3_p3", depth)]
    found += [*spatial("backbone.bu_conv2"), *block("backbone.C3_n3", depth)]
    found += [*spatial("backbone.bu_conv1"), *block("backbone.C3_n4", depth)]
    for level in range(3):
        found += [f"head.stems.{level}"]
        for branch, answers in _PLACES.items():
            for i in range(2):
                found += spatial(f"head.{branch}_convs.{level}.{i}")
            found += [f"head.{answer}.{level}" for answer in answers]
    return found

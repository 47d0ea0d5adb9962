"""Tensor parallelism: which parameters are split over the mesh axis `model`, and along which of their axes.

A pair of layers is split as Shoeybi et al. 2019 (Megatron-LM) do: the first by its outputs, the second by its inputs.
What lies between them, an activation per channel and a normalization of channels, then needs no other device, and one
sum after the second makes the result whole again: one all-reduce a pair, and none of activations is gathered. Of a
bottleneck with three convolutions the second and third are the pair. Of an inverted residual the expansion and the
projection are, and what is between them, depthwise, is split as well; its squeeze-excite adds a sum of a few numbers a
image.
"""

import re
from collections.abc import Iterator, Mapping

import jax
from jax.sharding import PartitionSpec as P
from jaxtyping import PyTree

from mapjax import paths as tree
from mapjax.sharding.mesh import STACK, Rules

OUT, IN = P(None, "model"), P("model", None)
CONV_OUT, CONV_IN = P(None, None, None, "model"), P(None, None, "model", None)
EACH = P("model")  # a number a channel

VIT = (  # in attention the heads are the last axis of the first projection, and the first of the second
    (r"self_attention/in_proj_kernel$", P(None, None, "model")),
    (r"self_attention/in_proj_bias$", P(None, "model")),
    (r"self_attention/out_proj/kernel$", IN),
    (r"mlp/0/kernel$", OUT),
    (r"mlp/0/bias$", EACH),
    (r"mlp/3/kernel$", IN),
)
CONVNEXT = ((r"block/3/kernel$", OUT), (r"block/3/bias$", EACH), (r"block/5/kernel$", IN))
CLASSIFIER = (  # the dense layers of AlexNet and VGG, which hold most of their parameters
    (r"classifier/[01]/map_kernel$", CONV_OUT),
    (r"classifier/[01]/bias$", EACH),
    (r"classifier/[34]/kernel$", IN),
)
UNET = (  # two convolutions on each level, and on the way back
    (r"(level|decoder)\d/conv1/0/kernel$", CONV_OUT),
    (r"(level|decoder)\d/conv1/0/bias$", EACH),
    (r"(level|decoder)\d/conv1/1/", EACH),
    (r"(level|decoder)\d/conv2/0/kernel$", CONV_IN),
)
INCEPTION = (  # and GoogLeNet: of each branch a 1×1 and what follows it, and of 1×7 and 7×1 the next two
    (r"inception\w+/branch[23]/0/conv/kernel$", CONV_OUT),
    (r"inception\w+/branch[23]/0/bn/", EACH),
    (r"inception\w+/branch[23]/1/conv/kernel$", CONV_IN),
    (r"Mixed_\w+/branch(\w+_1|7x7(dbl|x3)_3)/conv/kernel$", CONV_OUT),
    (r"Mixed_\w+/branch(\w+_1|7x7(dbl|x3)_3)/bn/", EACH),
    (r"Mixed_\w+/branch(\w+_2[ab]?|7x7(dbl|x3)_4)/conv/kernel$", CONV_IN),
)
SEGNET = (  # the first two convolutions of each stage on the way back; the last stage has one
    (r"decoder[2-5]_0/0/kernel$", CONV_OUT),
    (r"decoder[2-5]_0/1/", EACH),
    (r"decoder[2-5]_1/0/kernel$", CONV_IN),
)
RESNET9 = (
    (r"residual\d/0/0/kernel$", CONV_OUT),
    (r"residual\d/0/1/", EACH),
    (r"residual\d/1/0/kernel$", CONV_IN),
)
INVERTED = (  # ends of the paths of a branch that begins with an expansion, 0; 1 is depthwise, 2 perhaps squeezes
    (r"/[01]/0/kernel$", CONV_OUT),
    (r"/[01]/1/", EACH),
    (r"/2/fc1/kernel$", CONV_IN),
    (r"/2/fc2/kernel$", CONV_OUT),
    (r"/2/fc2/bias$", EACH),
    (r"/[23]/(0/)?kernel$", CONV_IN),
)
BOX_HEAD = (
    (r"box_head/fc6/map_kernel$", CONV_OUT),
    (r"box_head/fc6/bias$", EACH),
    (r"box_head/fc7/kernel$", IN),
)
BOTTLENECK = (  # of one block
    (r"conv2/kernel$", CONV_OUT),
    (r"bn2/", EACH),
    (r"conv3/kernel$", CONV_IN),
)
BASIC = (
    (r"conv1/kernel$", CONV_OUT),
    (r"bn1/", EACH),
    (r"conv2/kernel$", CONV_IN),
)


def rules(params: PyTree) -> Rules:
    """Give the rules of a network: ordered (expression over the path, PartitionSpec), none where nothing is known.

    The paths of the optimizer's state, of averages and of statistics end as those of the parameters do, so that the
    same rules hold for them.

    Args:
      params: parameters or their shapes.
    """
    shapes = {path: leaf.shape for path, leaf in zip(tree.paths(params), jax.tree.leaves(params))}
    paths = list(shapes)
    third = re.compile(rf"layer\d/(\d+|stack)/{BOTTLENECK[-1][0]}")
    residual = BOTTLENECK if any(third.search(path) for path in paths) else BASIC
    dense = CLASSIFIER if any(re.search(CLASSIFIER[0][0], path) for path in paths) else ()  # others end in such names
    segnet = SEGNET if any(re.search(SEGNET[-1][0], path) for path in paths) else ()  # the small one has no pairs
    known = [
        *VIT,
        *CONVNEXT,
        *dense,
        *UNET,
        *INCEPTION,
        *RESNET9,
        *segnet,
        *BOX_HEAD,
        *_inverted(shapes),
        *_in_a_row(shapes),
        *((rf"layer\d/\d+/{expression}", spec) for expression, spec in residual),
    ]
    stacked = [(f"{STACK}.*{expression}", P("pipe", *spec)) for expression, spec in (*VIT, *residual)]
    ordered = [*stacked, (STACK, P("pipe")), *known]
    return [(expression, spec) for expression, spec in ordered if any(re.search(expression, path) for path in paths)]


def _inverted(shapes: Mapping[str, tuple[int, ...]]) -> Iterator[tuple[str, P]]:
    """Give the rules of inverted residuals; of those that expand, as a depthwise convolution alone is no pair.

    Their first kernel is 1×1, which that of a depthwise one is not, nor the RPN's, which has such a path too.
    """
    for path, shape in shapes.items():
        branch = re.fullmatch(r"(.*/(?:block|conv))/0/0/kernel", path)
        if branch and shape[:2] == (1, 1):
            yield from ((re.escape(branch[1]) + ending, spec) for ending, spec in INVERTED)


def _in_a_row(shapes: Mapping[str, tuple[int, ...]]) -> Iterator[tuple[str, P]]:
    """Give the rules of the numbered convolutions of VGG and AlexNet.

    Each two with no pool between them are a pair. What a pool gives is whole, so that a decoder may read it.
    """
    found = [re.fullmatch(r"(.*features/)(\d+)/kernel", path) for path in shapes]
    numbers = {(one[1], int(one[2])) for one in found if one}
    for stem, first in sorted(numbers):
        norm = f"{stem}{first + 1}/scale" in shapes
        second = first + (3 if norm else 2)
        if (stem, first) not in numbers or (stem, second) not in numbers:
            continue
        numbers -= {(stem, first), (stem, second)}
        yield re.escape(f"{stem}{first}/kernel") + "$", CONV_OUT
        yield re.escape(f"{stem}{first}/bias") + "$", EACH
        if norm:
            yield re.escape(f"{stem}{first + 1}/"), EACH
        yield re.escape(f"{stem}{second}/kernel") + "$", CONV_IN

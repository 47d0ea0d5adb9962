"""Tensor parallelism: which parameters are split over the mesh axis `model`, and along which of their axes.

A pair of layers is split as Shoeybi et al. 2019 (Megatron-LM) do: the first by its outputs, the second by its inputs.
What lies between them, an activation per channel and a normalization of channels, then needs no other device, and one
sum after the second makes the result whole again: one all-reduce a pair, and none of activations is gathered. Of a
bottleneck with three convolutions the second and third are the pair.
"""

import re

from jax.sharding import PartitionSpec as P
from jaxtyping import PyTree

from mapjax import tree
from mapjax.shard import STACK, Rules

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
    paths = tree.paths(params)
    third = re.compile(rf"layer\d/(\d+|stack)/{BOTTLENECK[-1][0]}")
    residual = BOTTLENECK if any(third.search(path) for path in paths) else BASIC
    dense = CLASSIFIER if any(re.search(CLASSIFIER[0][0], path) for path in paths) else ()  # others end in such names
    known = [
        *VIT,
        *CONVNEXT,
        *dense,
        *UNET,
        *BOX_HEAD,
        *((rf"layer\d/\d+/{expression}", spec) for expression, spec in residual),
    ]
    stacked = [(f"{STACK}.*{expression}", P("pipe", *spec)) for expression, spec in (*VIT, *residual)]
    ordered = [*stacked, (STACK, P("pipe")), *known]
    return [(expression, spec) for expression, spec in ordered if any(re.search(expression, path) for path in paths)]

"""Tensor parallelism: the words in which a network says how its parameters are split over the mesh axis `model`.

A pair of layers is split as Shoeybi et al. 2019 (Megatron-LM) do: the first by its outputs, the second by its inputs.
What lies between them, an activation per channel and a normalization of channels, then needs no other device, and one
sum after the second makes the result whole again: one all-reduce a pair, and none of activations is gathered. Of a
bottleneck with three convolutions the second and third are the pair. Of an inverted residual the expansion and the
projection are, and what is between them, depthwise, is split as well; its squeeze-excite adds a sum of a few numbers an
image.

Each network has its own rules (`Model.rules`): ordered (expression over the path, PartitionSpec). The paths of the
optimizer's state, of averages and of statistics end as those of the parameters do, so that the same rules hold for
them; so no rule begins with "^".
"""

from jax.sharding import PartitionSpec as P

from mapjax import paths
from mapjax.sharding.mesh import STACK, Rules

OUT, IN = P(None, "model"), P("model", None)
CONV_OUT, CONV_IN = P(None, None, None, "model"), P(None, None, "model", None)
EACH = P("model")  # a number a channel


def below(name: str, rules: Rules) -> Rules:
    """Give the rules of a network for where it stands in another one, under `name`."""
    return tuple((paths.below(name, expression), spec) for expression, spec in rules)


def stacked(rules: Rules) -> Rules:
    """Give the rules of a stack of equal blocks, whose first axis is the block, by those of one block."""
    return (*((f"{STACK}.*{expression}", P("pipe", *spec)) for expression, spec in rules), (STACK, P("pipe")))

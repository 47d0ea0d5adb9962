import re

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from mapjax import parts, tree
from mapjax.parallel import tensor


def shapes(side=32, **node):
    model = parts.make("models", node, classes=5)
    images = jax.ShapeDtypeStruct((2, side, side, 3), np.float32)
    return jax.eval_shape(model.init, jax.random.key(0), images)["params"]


def spec_of(params, ending):
    """The spec of the first rule that is found in the only path with this ending."""
    (path,) = [path for path in tree.paths(params) if path.endswith(ending)]
    return next((spec for expression, spec in tensor.rules(params) if re.search(expression, path)), None)


@pytest.mark.parametrize(
    ("ending", "spec"),
    [
        ("encoder_layer_0/self_attention/in_proj_kernel", P(None, None, "model")),
        ("encoder_layer_0/self_attention/out_proj/kernel", P("model", None)),
        ("encoder_layer_0/mlp/0/kernel", P(None, "model")),
        ("encoder_layer_0/mlp/3/kernel", P("model", None)),
        ("encoder_layer_0/mlp/3/bias", None),
        ("conv_proj/kernel", None),
    ],
)
def test_a_vit_is_split_by_heads_and_by_the_hidden_layer(ending, spec):
    params = shapes(name="vit", width=16, depth=1, heads=2, mlp=32, patch=8, image_size=32)
    assert spec_of(params, ending) == spec


def test_a_stack_is_cut_by_blocks_too():
    params = shapes(name="vit", width=16, depth=2, heads=2, mlp=32, patch=8, image_size=32, stacked=True)
    assert spec_of(params, "stack/mlp/0/kernel") == P("pipe", None, "model")
    assert spec_of(params, "stack/ln_1/scale") == P("pipe")
    assert spec_of(params, "encoder/ln/scale") is None


@pytest.mark.parametrize(("depth", "first", "second"), [(18, "conv1", "conv2"), (50, "conv2", "conv3")])
def test_the_last_two_convolutions_of_a_residual_block_are_a_pair(depth, first, second):
    params = shapes(name="resnet", depth=depth, width=0.125, stem="small")
    assert spec_of(params, f"layer2/0/{first}/kernel") == P(None, None, None, "model")
    assert spec_of(params, f"layer2/0/{second}/kernel") == P(None, None, "model", None)
    assert spec_of(params, f"layer2/0/bn{first[-1]}/scale") == P("model")
    assert spec_of(params, f"layer2/0/bn{second[-1]}/scale") is None


@pytest.mark.parametrize(("name", "places"), [("vgg", (0, 3, 6)), ("alexnet", (1, 4, 6))])
def test_the_first_two_dense_layers_of_a_classifier_are_a_pair(name, places):
    params = shapes(64, name=name, width=0.125)
    assert spec_of(params, f"classifier/{places[0]}/map_kernel") == P(None, None, None, "model")
    assert spec_of(params, f"classifier/{places[0]}/bias") == P("model")
    assert spec_of(params, f"classifier/{places[1]}/kernel") == P("model", None)
    assert spec_of(params, f"classifier/{places[1]}/bias") is None
    assert spec_of(params, f"classifier/{places[2]}/kernel") is None
    assert tensor.rules(shapes(64, name="mobilenet")) == [], "its classifier is one layer"


@pytest.mark.parametrize("block", ["backbone/level1", "decoder0"])
def test_the_two_convolutions_of_a_unets_level_are_a_pair(block):
    params = shapes(name="unet", depth=2, width=8)
    assert spec_of(params, f"{block}/conv1/0/kernel") == P(None, None, None, "model")
    assert spec_of(params, f"{block}/conv1/1/scale") == P("model")
    assert spec_of(params, f"{block}/conv2/0/kernel") == P(None, None, "model", None)
    assert spec_of(params, f"{block}/conv2/1/scale") is None


@pytest.mark.parametrize(
    ("ending", "spec"), [("block/3/kernel", P(None, "model")), ("block/5/kernel", P("model", None))]
)
def test_a_convnext_is_split_by_the_hidden_layers(ending, spec):
    params = shapes(name="convnext", depths=(1, 1), widths=(8, 16))
    assert spec_of(params, f"features/1/0/{ending}") == spec


def test_there_are_no_rules_for_a_network_that_is_not_known():
    assert tensor.rules({"odd": np.zeros((3, 3))}) == []

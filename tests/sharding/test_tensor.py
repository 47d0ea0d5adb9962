import re
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from mapjax import paths as tree
from mapjax.config import parts
from mapjax.models import compose
from mapjax.models.backbones import tiny
from mapjax.task import Model


class Split(NamedTuple):
    """A network's parameters, and its own rules."""

    params: Any
    rules: Any


def shapes(side=32, **node):
    model = parts.make("models", node, classes=5)
    images = jax.ShapeDtypeStruct((2, side, side, 3), np.float32)
    return Split(jax.eval_shape(model.init, jax.random.key(0), images)["params"], model.rules)


def spec_of(network, ending):
    """The spec of the first rule that is found in the only path with this ending."""
    (path,) = [path for path in tree.paths(network.params) if path.endswith(ending)]
    return next((spec for expression, spec in network.rules if re.search(expression, path)), None)


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
    network = shapes(name="vit", width=16, depth=1, heads=2, mlp=32, patch=8, image_size=32)
    assert spec_of(network, ending) == spec


def test_a_stack_is_cut_by_blocks_too():
    network = shapes(name="vit", width=16, depth=2, heads=2, mlp=32, patch=8, image_size=32, stacked=True)
    assert spec_of(network, "stack/mlp/0/kernel") == P("pipe", None, "model")
    assert spec_of(network, "stack/ln_1/scale") == P("pipe")
    assert spec_of(network, "encoder/ln/scale") is None


@pytest.mark.parametrize(("depth", "first", "second"), [(18, "conv1", "conv2"), (50, "conv2", "conv3")])
def test_the_last_two_convolutions_of_a_residual_block_are_a_pair(depth, first, second):
    network = shapes(name="resnet", depth=depth, width=0.125, stem="small")
    assert spec_of(network, f"layer2/0/{first}/kernel") == P(None, None, None, "model")
    assert spec_of(network, f"layer2/0/{second}/kernel") == P(None, None, "model", None)
    assert spec_of(network, f"layer2/0/bn{first[-1]}/scale") == P("model")
    assert spec_of(network, f"layer2/0/bn{second[-1]}/scale") is None


@pytest.mark.parametrize(("name", "places"), [("vgg", (0, 3, 6)), ("alexnet", (1, 4, 6))])
def test_the_first_two_dense_layers_of_a_classifier_are_a_pair(name, places):
    network = shapes(64, name=name, width=0.125)
    assert spec_of(network, f"classifier/{places[0]}/map_kernel") == P(None, None, None, "model")
    assert spec_of(network, f"classifier/{places[0]}/bias") == P("model")
    assert spec_of(network, f"classifier/{places[1]}/kernel") == P("model", None)
    assert spec_of(network, f"classifier/{places[1]}/bias") is None
    assert spec_of(network, f"classifier/{places[2]}/kernel") is None
    mobile = shapes(64, name="mobilenet", width=0.25)
    assert spec_of(mobile, "classifier/1/kernel") is None, "its classifier is one layer"


OUT, IN, EACH = P(None, None, None, "model"), P(None, None, "model", None), P("model")


def split(network, ending):
    """The spec of every path with this ending that has one."""
    paths = [path for path in tree.paths(network.params) if path.endswith(ending)]
    found = {path: next((spec for one, spec in network.rules if re.search(one, path)), None) for path in paths}
    return {path: spec for path, spec in found.items() if spec}


@pytest.mark.parametrize(
    ("node", "pairs"),
    [
        ({"depth": 11}, [(6, 8), (11, 13), (16, 18)]),
        ({"depth": 11, "batch_norm": True}, [(8, 11), (15, 18), (22, 25)]),
        ({"depth": 16}, [(0, 2), (5, 7), (10, 12), (17, 19), (24, 26)]),
    ],
)
def test_two_convolutions_of_vgg_without_a_pool_between_are_a_pair(node, pairs):
    network = shapes(name="vgg", width=0.125, **node)
    found = {path: spec for path, spec in split(network, "kernel").items() if path.startswith("features")}
    wanted = {f"features/{place}/kernel": spec for pair in pairs for place, spec in zip(pair, (OUT, IN))}
    assert found == wanted
    first, second = pairs[0]
    assert spec_of(network, f"features/{first}/bias") == EACH
    assert spec_of(network, f"features/{second}/bias") is None
    if "batch_norm" in node:
        assert spec_of(network, f"features/{first + 1}/scale") == EACH
        assert spec_of(network, f"features/{second + 1}/scale") is None


@pytest.mark.parametrize(
    ("node", "block", "projection", "squeezed"),
    [
        ({"name": "mobilenet"}, "features/2/conv", "2/kernel", False),
        ({"name": "mobilenet", "version": 3}, "features/4/block", "3/0/kernel", True),
        ({"name": "efficientnet"}, "features/3/0/block", "3/0/kernel", True),
    ],
)
def test_an_inverted_residual_is_split_from_its_expansion_to_its_projection(node, block, projection, squeezed):
    network = shapes(width=0.5, **node)
    assert spec_of(network, f"{block}/0/0/kernel") == OUT
    assert spec_of(network, f"{block}/0/1/scale") == EACH
    assert spec_of(network, f"{block}/1/0/kernel") == OUT
    assert spec_of(network, f"{block}/1/1/bias") == EACH
    assert spec_of(network, f"{block}/{projection}") == IN
    if squeezed:
        assert spec_of(network, f"{block}/2/fc1/kernel") == IN
        assert spec_of(network, f"{block}/2/fc1/bias") is None
        assert spec_of(network, f"{block}/2/fc2/kernel") == OUT
        assert spec_of(network, f"{block}/2/fc2/bias") == EACH
    alone = [path for path in split(network, "kernel") if path.startswith("features/1/")]
    assert not alone, "the first does not expand: to split it, its input would have to be brought together"


@pytest.mark.parametrize("block", ["backbone/level1", "decoder0"])
def test_the_two_convolutions_of_a_unets_level_are_a_pair(block):
    network = shapes(name="unet", depth=2, width=8)
    assert spec_of(network, f"{block}/conv1/0/kernel") == OUT
    assert spec_of(network, f"{block}/conv1/1/scale") == EACH
    assert spec_of(network, f"{block}/conv2/0/kernel") == IN
    assert spec_of(network, f"{block}/conv2/1/scale") is None


@pytest.mark.parametrize(
    ("side", "name", "counts", "names"),  # of the kernels split by outputs and by inputs
    [
        (
            32,
            "googlenet",
            (18, 18),
            ("inception4b/branch2/0/conv", "inception4b/branch2/1/conv", "inception4b/branch4/1/conv"),
        ),
        (
            75,
            "inception",
            (26, 28),
            ("Mixed_6b/branch7x7dbl_3/conv", "Mixed_6b/branch7x7dbl_4/conv", "Mixed_6b/branch7x7_3/conv"),
        ),
        (32, "segnet", (9, 9), ("decoder4_0/0", "decoder4_1/0", "decoder4_2/0")),
        (32, "resnet9", (2, 2), ("residual1/0/0", "residual1/1/0", "layer1/0")),
    ],
)
def test_the_second_convolution_of_a_pair_reads_what_the_first_gives(side, name, counts, names):
    """Two of Inception's pairs have two that read one."""
    network = shapes(side, name=name)
    found = split(network, "kernel")
    assert (list(found.values()).count(OUT), list(found.values()).count(IN)) == counts
    assert [found.get(f"{one}/kernel") for one in names] == [OUT, IN, None]
    sizes = dict(zip(tree.paths(network.params), (leaf.shape for leaf in jax.tree.leaves(network.params))))
    assert sizes[f"{names[0]}/kernel"][3] == sizes[f"{names[1]}/kernel"][2]
    scales = split(network, "scale")
    assert set(scales.values()) == {EACH}
    assert set(scales) == {norm_of(path) for path, spec in found.items() if spec == OUT}


def norm_of(kernel):
    """The path of the scale after a convolution: of the next number in one list, else beside it in its unit."""
    if numbered := re.fullmatch(r"(.*features/)(\d+)/kernel", kernel):
        return f"{numbered[1]}{int(numbered[2]) + 1}/scale"
    return kernel.replace("conv/kernel", "bn/scale").replace("0/kernel", "1/scale")


def test_small_segnets_have_no_pairs():
    assert shapes(name="segnet", encoder="small", width=0.25).rules == ()


@pytest.mark.parametrize(
    ("ending", "spec"), [("block/3/kernel", P(None, "model")), ("block/5/kernel", P("model", None))]
)
def test_a_convnext_is_split_by_the_hidden_layers(ending, spec):
    network = shapes(name="convnext", depths=(1, 1), widths=(8, 16))
    assert spec_of(network, f"features/1/0/{ending}") == spec


def test_a_network_that_is_not_ours_is_split_by_its_own_rules_only():
    def init(key, images):
        return {"params": {"layer1": {"0": {"conv1": {"kernel": np.zeros((3, 3, 4, 4))}}}}, "stats": {}}

    strange = Model(init, lambda variables, images, *, train, key: ({}, {}))
    assert not strange.rules, "its names are those of a ResNet, which say nothing"
    own = strange._replace(rules=((r"conv1/kernel$", IN),))
    above = compose.on_backbone(own, tiny.Tiny(4, 0.0))
    params = {"backbone": init(None, None)["params"], "layer1": {"0": {"conv1": {"kernel": np.zeros((3, 3, 4, 4))}}}}
    assert split(Split(params, above.rules), "kernel") == {"backbone/layer1/0/conv1/kernel": IN}

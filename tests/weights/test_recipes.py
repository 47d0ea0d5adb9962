"""What belongs to published weights; that it is torchvision's, test_parity_recipes.py tells."""

import jax
import numpy as np
import pytest

from mapjax import weights
from mapjax.config import parts
from mapjax.errors import UserError
from mapjax.runs import networks, pretrained
from mapjax.weights import class_names, names, recipes
from mapjax.weights.published import TORCHVISION
from mapjax.weights.recognise import NUMBERS, recognise

SMALL = (  # one of each kind and family that is quick to lay out
    "torchvision/mobilenet_v3_small.DEFAULT",
    "torchvision/resnet18.DEFAULT",
    "torchvision/vit_b_16.IMAGENET1K_SWAG_E2E_V1",
    "torchvision/lraspp_mobilenet_v3_large.DEFAULT",
    "yolox_nano",
)

BY_SHORTER_SIDE = ((520, 784), (800, 1216), (800, 1200), (320, 480))  # an image of 2:3, rounded up to a multiple


def shapes_of(name):
    recipe = recipes.find(name)
    config = pretrained.config_of(recipe)
    task = networks.make_task(config, pretrained.channels_of(recipe))
    image = jax.ShapeDtypeStruct((1, *recipe.image_size, 3), np.uint8)
    return weights.shapes(jax.eval_shape(task.init, jax.random.key(0), {"image": image}))


@pytest.mark.parametrize("name", recipes.known())
def test_every_name_makes_its_parts(name):
    recipe = recipes.find(name)
    config = pretrained.config_of(recipe)
    channels = pretrained.channels_of(recipe)
    assert networks.make_task(config, channels).metrics
    assert len(set(channels)) == (recipe.channels or len(class_names.read(recipe.classes).names))
    transform = parts.make("data.transforms", config.transform.to_dict(), size=config.image_size)
    size = np.array([60, 90], np.int32)
    record = {"id": 0, "file": "x", "image": np.zeros((*size, 3), np.uint8), "size": size, "label": np.int32(0)}
    record |= {"boxes": np.zeros((0, 4), np.float32), "classes": np.zeros(0, np.int32), "crowd": np.zeros(0, bool)}
    seen = transform(record, np.random.default_rng(0))["image"].shape[:2]
    assert seen in (recipe.image_size, *BY_SHORTER_SIDE)


@pytest.mark.parametrize("name", SMALL)
def test_numbers_are_those_of_the_network(name):
    recipe = recipes.find(name)
    network, _, kind = recipe.name.removeprefix("torchvision/").partition(".")
    count = sum(int(np.prod(shape)) for shape in shapes_of(name).values())
    assert count == NUMBERS.get(f"{network}.{kind}", NUMBERS[network])


def test_names():
    every = {f"torchvision/{network}.{kind}" for kind, files in TORCHVISION.items() for network in files}
    absent = {name.partition("/")[2].partition(".")[0] for name in every - set(recipes.known())}
    assert absent == {
        "vgg16",  # of which one has no classifier
    }
    assert recipes.find("torchvision/resnet50").name == "torchvision/resnet50.IMAGENET1K_V2"
    assert recipes.find("torchvision/resnet50.DEFAULT").transform["crop_share"] == 224 / 232


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("torchvision/resnet51", "no such network. Did you mean"),
        ("torchvision/resnet50.IMAGENET1K_V3", "there are no such weights. Did you mean"),
        ("torchvision/vgg16.IMAGENET1K_FEATURES", "no classifier"),
        ("timm/resnet50.a1_in1k", "timm's can be trained from"),
        ("qqq", "Names are torchvision/NETWORK.WEIGHTS, efficientnet_lite0 and yolox_SIZE"),
        ("efficientnet_lite", r"Did you mean 'efficientnet_lite0' or 'torchvision/efficientnet_b\d'"),
        ("resnet50", "'resnet50' is neither a weight file nor .* Did you mean 'torchvision/resnet50'"),
    ],
)
def test_mistakes_of_names(name, said):
    with pytest.raises(UserError, match=said):
        recipes.find(name)


def test_a_file_is_recognised(tmp_path):
    small = dict(shapes_of(SMALL[0])) | {"features.0.1.num_batches_tracked": ()}
    checkpoint = {f"{key}.{name}": shape for key in ("model", "ema.module") for name, shape in small.items()}
    assert recognise(tmp_path / "mine.pth", checkpoint) == "torchvision/mobilenet_v3_small.IMAGENET1K_V1"
    assert recognise(tmp_path / "mine.pth", small) == "torchvision/mobilenet_v3_small.IMAGENET1K_V1"
    called = tmp_path / "resnet50.IMAGENET1K_V1.safetensors"
    assert recognise(called, {}) == "torchvision/resnet50.IMAGENET1K_V1"
    assert recognise(tmp_path / "resnet50-11ad3fa6.pth", {}) == "torchvision/resnet50.IMAGENET1K_V2"
    assert {name: recognise(tmp_path / wheel.file, {}) for name, wheel in names.WHEELS.items()} == {
        name: name for name in names.WHEELS
    }
    assert recognise(tmp_path / "yolox_s.pth", {}) == "yolox_s"
    assert recognise(tmp_path / "mine.pth", {"a": (NUMBERS["yolox_m"],)}) == "yolox_m"
    lite0 = {"a": (NUMBERS[names.LITE0],)}
    assert recognise(tmp_path / "mine.pth", lite0) == names.LITE0
    two = {"a": (NUMBERS["resnet50"],)}
    with pytest.raises(UserError, match=r"may be torchvision/resnet50\.IMAGENET1K_V2 or .*_V1, which see images diff"):
        recognise(tmp_path / "mine.pth", two)
    with pytest.raises(UserError, match=r"its 1 tensors are not those of a published network; say what it is"):
        recognise(tmp_path / "mine.pth", {"a": (3,)})

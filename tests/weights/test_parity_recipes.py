"""What belongs to published weights is what torchvision says (run: pytest -m parity)."""

import math

import jax
import numpy as np
import PIL.Image
import pytest

from mapjax.config import parts
from mapjax.data.transforms import fits
from mapjax.runs import networks, pretrained
from mapjax.weights import class_names, recipes
from mapjax.weights.published import TORCHVISION
from mapjax.weights.recognise import NUMBERS
from mapjax.weights.translate import new_name, shapes

torch = pytest.importorskip("torch")
torchvision = pytest.importorskip("torchvision")
pytestmark = pytest.mark.parity

NAMES = [name for name in recipes.known() if name.startswith("torchvision/")]
SIZES = [(480, 640), (640, 427), (1200, 1601), (230, 231)]


def theirs(name):
    network, _, kind = name.removeprefix("torchvision/").partition(".")
    return network, torchvision.models.get_model_weights(network)[kind]


def blank(network, weights, **more):
    """Their network as these weights need it, without a number in it."""
    options = {"fcn": {"aux_loss": True}, "dee": {"aux_loss": True}, "inc": {"init_weights": False}}.get(
        network[:3], {}
    )
    if "SWAG_E2E" in weights.name:
        options = {"image_size": weights.transforms().crop_size[0]}
    if network == "googlenet":
        options = {"init_weights": False, "aux_logits": True}
    if weights.name.startswith("COCO"):
        options = {**options, "weights_backbone": None, "num_classes": len(weights.meta["categories"])}
    with torch.device("meta"):
        return torchvision.models.get_model(network, weights=None, **options, **more)


def photo(height, width):
    rng = np.random.default_rng(height)
    small = PIL.Image.fromarray(rng.integers(0, 256, (6, 8, 3), np.uint8))
    smooth = np.asarray(small.resize((width, height), PIL.Image.Resampling.BICUBIC), np.float64)
    return np.clip(smooth + rng.normal(0, 20, smooth.shape), 0, 255).astype(np.uint8)


def test_the_table_has_all_weights_of_the_networks_it_names():
    networks = {network for files in TORCHVISION.values() for network in files}
    for network in networks:
        for weights in torchvision.models.get_model_weights(network):
            assert weights.url.endswith(f"/{TORCHVISION[weights.name][network]}.pth")


@pytest.mark.parametrize("name", NAMES)
def test_recipe(name):
    recipe, (network, weights) = recipes.find(name), theirs(name)
    seen, task = weights.transforms(), recipe.task
    tensors = {n: tuple(t.shape) for n, t in blank(network, weights).state_dict().items() if not n.endswith("_tracked")}
    assert sum(map(math.prod, tensors.values())) == NUMBERS.get(f"{network}.{weights.name}", NUMBERS[network])
    ours_of_network = networks.make_task(pretrained.config_of(recipe), pretrained.channels_of(recipe))
    image = jax.ShapeDtypeStruct((1, *recipe.image_size, 3), np.uint8)
    wanted = jax.eval_shape(ours_of_network.init, jax.random.key(0), {"image": image})
    assert shapes(wanted) == {new_name(name): shape for name, shape in tensors.items()}
    if recipe.classes == "coco":
        transform = blank(network, weights).transform
        square = "ssd" in network
        sides = recipe.image_size if square else (recipe.transform["shorter"], recipe.transform["longest"])
        assert sides == (transform.min_size[0], transform.max_size)
        channels = pretrained.channels_of(recipe)
        assert (task["divisor"] if square else recipe.transform["multiple"]) == transform.size_divisible
        assert transform.fixed_size == (recipe.image_size if square else None)
        mean, std, categories = transform.image_mean, transform.image_std, weights.meta["categories"][recipe.first :]
        nameless = {f"nothing ({number})": "N/A" for number in range(1, 91)} | {"nothing (0)": "__background__"}
        assert [nameless.get(channel, channel) for channel in channels] == categories
    else:
        mean, std, categories = seen.mean, seen.std, list(class_names.read(recipe.classes).names)
        assert [name.replace("__background__", "background") for name in weights.meta["categories"]] == categories
    if recipe.classes == "voc":
        assert recipe.transform["shorter"] == seen.resize_size[0] and seen.interpolation.value == "bilinear"
    if recipe.classes == "imagenet":
        assert recipe.image_size == (seen.crop_size[0], seen.crop_size[0])
        assert math.floor(seen.crop_size[0] / recipe.transform["crop_share"] + 1e-6) == seen.resize_size[0]
        assert recipe.transform["interpolation"] == seen.interpolation.value
    assert task.get("mean", (0.485, 0.456, 0.406)) == tuple(mean) and task.get("std", (0.229, 0.224, 0.225)) == tuple(
        std
    )


def shown(name, image):
    """The image as the network sees it, by ours and by theirs, as levels."""
    recipe, (_, weights) = recipes.find(name), theirs(name)
    transform = parts.make("data.transforms", dict(recipe.transform), size=recipe.image_size)
    size = np.array(image.shape[:2], np.int32)
    ours = transform(
        {"id": 0, "file": "x", "image": image, "size": size, "label": np.int32(0)}, np.random.default_rng(0)
    )["image"]
    seen = weights.transforms()
    values = seen(PIL.Image.fromarray(image)).permute(1, 2, 0).numpy()
    return ours.astype(float), (values * seen.std + seen.mean) * 255


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("weights", ["resnet50.DEFAULT", "efficientnet_b3.DEFAULT", "vit_l_16.IMAGENET1K_SWAG_E2E_V1"])
def test_classifiers_see_the_same_pixels(weights, size):
    ours, their = shown(f"torchvision/{weights.replace('DEFAULT', theirs_default(weights))}", photo(*size))
    assert np.abs(ours - their).max() <= 3 and np.abs(ours - their).mean() < 0.05


def theirs_default(weights):
    return torchvision.models.get_model_weights(weights.partition(".")[0]).DEFAULT.name


@pytest.mark.parametrize("size", SIZES)
def test_segmenters_see_the_same_pixels(size):
    ours, their = shown("torchvision/lraspp_mobilenet_v3_large.COCO_WITH_VOC_LABELS_V1", photo(*size))
    height, width = their.shape[:2]
    assert ours.shape[:2] == (-(-height // 8) * 8, -(-width // 8) * 8)
    apart = np.abs(ours[:height, :width] - their)
    assert apart.max() <= 3 and apart.mean() < 0.3


@pytest.mark.parametrize("size", [*SIZES, (1080, 1920), (97, 801), (801, 97)])
def test_detectors_see_the_same_pixels(size):
    network, weights = theirs("torchvision/fasterrcnn_resnet50_fpn.COCO_V1")
    transform = blank(network, weights).transform
    image = photo(*size)
    values, _ = transform.resize(torch.from_numpy(image).permute(2, 0, 1).float() / 255, None)
    assert fits.resized(size, 800, 1333) == values.shape[1:]
    ours, matrix = ours_of_detector(image)
    assert ours.shape[:2] == transform.batch_images([values], 32).shape[2:]
    height, width = values.shape[1:]
    assert np.abs(ours[:height, :width] - values.permute(1, 2, 0).numpy() * 255).max() <= 1.01
    np.testing.assert_allclose(np.diag(matrix)[:2], [width / size[1], height / size[0]], rtol=1e-6)


@pytest.mark.parametrize("size", SIZES)
def test_ssd_sees_the_same_pixels(size):
    network, weights = theirs("torchvision/ssd300_vgg16.COCO_V1")
    image = photo(*size)
    values, _ = blank(network, weights).transform.resize(torch.from_numpy(image).permute(2, 0, 1).float() / 255, None)
    ours, matrix = ours_of_detector(image, "torchvision/ssd300_vgg16")
    assert ours.shape == (300, 300, 3)
    assert np.abs(ours - values.permute(1, 2, 0).numpy() * 255).max() <= 1.01
    np.testing.assert_allclose(np.diag(matrix)[:2], [300 / size[1], 300 / size[0]], rtol=1e-6)


def ours_of_detector(image, name="torchvision/fasterrcnn_resnet50_fpn"):
    recipe = recipes.find(name)
    transform = parts.make("data.transforms", dict(recipe.transform), size=recipe.image_size)
    record = {"boxes": np.zeros((0, 4), np.float32), "classes": np.zeros(0, np.int32), "crowd": np.zeros(0, bool)}
    record |= {"id": 0, "file": "x", "image": image, "size": np.array(image.shape[:2], np.int32)}
    example = transform(record, np.random.default_rng(0))
    return example["image"], example["matrix"]

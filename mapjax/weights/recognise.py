"""Which published network a file of weights is of: by the file's name, or else by how many numbers it holds."""

import math
import pathlib

from mapjax.errors import UserError
from mapjax.weights import names, recipes
from mapjax.weights.fitting import Shapes, prefixes
from mapjax.weights.published import TORCHVISION
from mapjax.weights.stored import counts

NUMBERS = {  # in all tensors, without counters of batches; other weights of a network have as many
    "alexnet": 61_100_840,
    "convnext_base": 88_591_464,
    "convnext_large": 197_767_336,
    "convnext_small": 50_223_688,
    "convnext_tiny": 28_589_128,
    "deeplabv3_mobilenet_v3_large": 11_057_332,
    "deeplabv3_resnet101": 61_105_642,
    "deeplabv3_resnet50": 42_061_290,
    "efficientnet_b0": 5_330_564,
    "efficientnet_b1": 7_856_232,
    "efficientnet_b2": 9_177_562,
    "efficientnet_b3": 12_320_528,
    "efficientnet_b4": 19_466_816,
    "efficientnet_b5": 30_562_520,
    "efficientnet_b6": 43_265_136,
    "efficientnet_b7": 66_658_680,
    "efficientnet_lite0": 4_694_024,
    "fasterrcnn_mobilenet_v3_large_320_fpn": 19_435_154,
    "fasterrcnn_mobilenet_v3_large_fpn": 19_435_154,
    "fasterrcnn_resnet50_fpn": 41_861_526,
    "fasterrcnn_resnet50_fpn_v2": 43_771_542,
    "fcn_resnet101": 54_421_226,
    "fcn_resnet50": 35_376_874,
    "fcos_resnet50_fpn": 32_375_840,
    "googlenet": 13_019_960,
    "hf/facebook/detr-resnet-101": 60_675_360,
    "hf/facebook/detr-resnet-50": 41_631_008,
    "inception_v3": 27_197_488,
    "keypointrcnn_resnet50_fpn": 59_243_498,
    "lraspp_mobilenet_v3_large": 3_246_194,
    "maskrcnn_resnet50_fpn": 44_507_633,
    "maskrcnn_resnet50_fpn_v2": 46_420_721,
    "mobilenet_v2": 3_538_984,
    "mobilenet_v3_large": 5_507_432,
    "mobilenet_v3_small": 2_554_968,
    "resnet101": 44_654_504,
    "resnet152": 60_344_232,
    "resnet18": 11_699_112,
    "resnet34": 21_814_696,
    "resnet50": 25_610_152,
    "resnext101_32x8d": 88_994_216,
    "resnext101_64x4d": 83_658_152,
    "resnext50_32x4d": 25_097_128,
    "retinanet_resnet50_fpn": 34_121_239,
    "retinanet_resnet50_fpn_v2": 38_252_055,
    "ssd300_vgg16": 35_641_826,
    "ssdlite320_mobilenet_v3_large": 3_473_004,
    "vgg11": 132_863_336,
    "vgg11_bn": 132_874_344,
    "vgg13": 133_047_848,
    "vgg13_bn": 133_059_624,
    "vgg16": 138_357_544,
    "vgg16_bn": 138_374_440,
    "vgg19": 143_667_240,
    "vgg19_bn": 143_689_256,
    "vit_b_16": 86_567_656,
    "vit_b_16.IMAGENET1K_SWAG_E2E_V1": 86_859_496,
    "vit_b_32": 88_224_232,
    "vit_h_14": 632_045_800,
    "vit_h_14.IMAGENET1K_SWAG_E2E_V1": 633_470_440,
    "vit_l_16": 304_326_632,
    "vit_l_16.IMAGENET1K_SWAG_E2E_V1": 305_174_504,
    "vit_l_32": 306_535_400,
    "wide_resnet101_2": 127_024_552,
    "wide_resnet50_2": 68_951_464,
    "yolox_l": 54_278_143,
    "yolox_m": 25_369_791,
    "yolox_nano": 927_551,
    "yolox_s": 8_991_359,
    "yolox_tiny": 5_073_183,
    "yolox_x": 99_172_415,
}


def recognise(path: pathlib.Path, shapes: Shapes) -> str:
    """Give the name of the published weights that a file has the form of.

    Args:
      path: a file that is called as a published one, or "resnet50.IMAGENET1K_V2.pth", is taken at its word.
      shapes: of its tensors by name, with any prefix.

    Raises:
      UserError: the form is that of no network here, or of several that see images differently.
    """
    for name, wheel in names.WHEELS.items():
        if path.name in (wheel.file, f"{name}.onnx"):
            return name
    if path.stem in names.YOLOX:
        return path.stem
    known = recipes.known()
    for name in known:
        if not name.startswith("torchvision/"):
            if path.stem == name.rpartition("/")[2]:
                return name
            continue
        network, _, kind = name.removeprefix("torchvision/").partition(".")
        if path.stem in (TORCHVISION[kind][network], f"{network}.{kind}"):
            return name
    sizes = {name: math.prod(shape) for name, shape in shapes.items() if not counts(name)}
    totals = [sum(size for name, size in sizes.items() if name.startswith(prefix)) for prefix in prefixes(sizes)]
    fitting = next(filter(None, ([name for name in known if _numbers(name) == total] for total in totals)), [])
    if not fitting:
        raise UserError(
            f"{path}: its {len(sizes)} tensors are not those of a published network; say what it is by a name before "
            f"it, as in torchvision/resnet50.IMAGENET1K_V2:{path}, or start a training from it with --init_from."
        )
    if len(fitting) > 1:
        raise UserError(
            f"{path} may be {' or '.join(fitting)}, which see images differently; put one of them before it, as in "
            f"{fitting[0]}:{path}."
        )
    return fitting[0]


def _numbers(name: str) -> int | None:
    whole = name.removeprefix("torchvision/")
    return NUMBERS.get(whole, NUMBERS.get(whole.partition(".")[0]))

"""What belongs to published weights: the network, the task, how images are seen, and the classes.

Sizes, crops and filters are those of torchvision's weights enums (`Weights.transforms()`); the parity test goes through
all of them. A recipe holds plain nodes of a config, from which `mapjax.runs.pretrained` makes a run.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from mapjax.errors import UserError, near
from mapjax.weights import huggingface, names
from mapjax.weights.published import TORCHVISION

Node = Mapping[str, Any]

COCO_CHANNELS = 90  # of COCO's detectors: channel k answers for category k + 1, and ten of them for none
COCO_MEAN = (0.48235, 0.45882, 0.40784)  # of SSD's images
_SWAG = {"b": 384, "l": 512, "h": 518}  # sides of images, fine-tuned end to end (Singh et al. 2022)
_SEEN = {  # (network, weights) → side of the crop, and of the shorter side of the image that it is cut out of
    ("convnext_tiny", "V1"): (224, 236),
    ("convnext_small", "V1"): (224, 230),
    ("convnext_base", "V1"): (224, 232),
    ("convnext_large", "V1"): (224, 232),
    ("efficientnet_b1", "V1"): (240, 256),
    ("efficientnet_b1", "V2"): (240, 255),
    ("efficientnet_b2", "V1"): (288, 288),
    ("efficientnet_b3", "V1"): (300, 320),
    ("efficientnet_b4", "V1"): (380, 384),
    ("efficientnet_b5", "V1"): (456, 456),
    ("efficientnet_b6", "V1"): (528, 528),
    ("efficientnet_b7", "V1"): (600, 600),
    ("inception_v3", "V1"): (299, 342),
    ("resnext101_64x4d", "V1"): (224, 232),
    ("vit_l_16", "V1"): (224, 242),
}
_VITS = {"b": "base", "l": "large", "h": "huge"}
_CLASSIFIERS: tuple[tuple[str, Callable[..., Node]], ...] = (  # expression of torchvision's name → node of ours
    (r"resnet(\d+)", lambda depth: {"name": "resnet", "depth": int(depth)}),
    (
        r"resnext(\d+)_(\d+)x(\d+)d",
        lambda depth, groups, width: {
            "name": "resnet",
            "depth": int(depth),
            "groups": int(groups),
            "width_per_group": int(width),
        },
    ),
    (r"wide_resnet(\d+)_2", lambda depth: {"name": "resnet", "depth": int(depth), "width_per_group": 128}),
    (r"vgg(\d+)(_bn)?", lambda depth, norm: {"name": "vgg", "depth": int(depth), "batch_norm": norm is not None}),
    (r"mobilenet_v2", lambda: {"name": "mobilenet", "version": 2}),
    (r"mobilenet_v3_(large|small)", lambda size: {"name": "mobilenet", "version": 3, "size": size}),
    (r"efficientnet_(b\d|lite\d)", lambda variant: {"name": "efficientnet", "variant": variant}),
    (r"convnext_(\w+)", lambda variant: {"name": "convnext", "variant": variant}),
    (r"vit_([blh])_(\d+)", lambda size, patch: {"name": "vit", "variant": _VITS[size], "patch": int(patch)}),
    (r"alexnet", lambda: {"name": "alexnet"}),
    (r"googlenet", lambda: {"name": "googlenet"}),
    (r"inception_v3", lambda: {"name": "inception"}),
)
_SEGMENTERS: dict[str, Node] = {
    "fcn_resnet50": {"name": "fcn", "backbone": {"name": "resnet", "depth": 50}, "aux": True},
    "fcn_resnet101": {"name": "fcn", "backbone": {"name": "resnet", "depth": 101}, "aux": True},
    "deeplabv3_resnet50": {"name": "deeplab", "backbone": {"name": "resnet", "depth": 50}, "aux": True},
    "deeplabv3_resnet101": {"name": "deeplab", "backbone": {"name": "resnet", "depth": 101}, "aux": True},
    "deeplabv3_mobilenet_v3_large": {"name": "deeplab", "backbone": {"name": "mobilenet"}, "aux": True},
    "lraspp_mobilenet_v3_large": {"name": "lraspp"},
}
_RESNET50: Node = {"name": "resnet", "depth": 50, "norm": "frozen"}
_ON_MOBILENET: Node = {  # both levels have stride 32: its first block of that stride, and the last layer of all
    "name": "faster_rcnn",
    "backbone": {"name": "mobilenet", "version": 3, "norm": "frozen", "epsilon": 1e-5, "blocks": True},
    "levels": ("block13", "head"),
    "anchor_sizes": ((32, 64, 128, 256, 512),) * 3,
}
_DETECTORS: dict[str, tuple[Node, Node, tuple[int, int]]] = {  # network, task, shorter and longest side of its images
    # The published weights of networks with frozen norms were trained with an epsilon of 0 in them.
    "fasterrcnn_resnet50_fpn": (
        {"name": "faster_rcnn", "backbone": {**_RESNET50, "epsilon": 0.0}},
        {"name": "two_stage"},
        (800, 1333),
    ),
    "fasterrcnn_resnet50_fpn_v2": (
        {"name": "faster_rcnn", "rpn_depth": 2, "box_convs": 4, "norm": "batch"},
        {"name": "two_stage"},
        (800, 1333),
    ),
    "maskrcnn_resnet50_fpn": (
        {"name": "faster_rcnn", "backbone": {**_RESNET50, "epsilon": 0.0}, "mask_convs": 4},
        {"name": "two_stage", "beside": ("masks",)},
        (800, 1333),
    ),
    "maskrcnn_resnet50_fpn_v2": (
        {"name": "faster_rcnn", "rpn_depth": 2, "box_convs": 4, "mask_convs": 4, "norm": "batch"},
        {"name": "two_stage", "beside": ("masks",)},
        (800, 1333),
    ),
    "keypointrcnn_resnet50_fpn": (
        {"name": "faster_rcnn", "backbone": {**_RESNET50, "epsilon": 0.0}, "keypoints": 17},
        {"name": "two_stage", "beside": ("keypoints",)},
        (800, 1333),
    ),
    "fasterrcnn_mobilenet_v3_large_fpn": (
        _ON_MOBILENET,
        {"name": "two_stage", "rpn_score_threshold": 0.05},
        (800, 1333),
    ),
    "fasterrcnn_mobilenet_v3_large_320_fpn": (
        _ON_MOBILENET,
        {"name": "two_stage", "rpn_score_threshold": 0.05, "pre_nms_test": 150, "post_nms_test": 150},
        (320, 640),
    ),
}
YOLOX_TASK: Node = {  # what YOLOX is trained with (Ge et al. 2021)
    "name": "dense",
    "assignment": "sim_ota",
    "code": "corner",
    "class_loss": {"name": "bce", "everywhere": False},
    "box_loss": "iou_squared",
    "box_factor": 5.0,
    "quality": "objectness",
    "divided_by": "batch",
    "score_threshold": 0.01,
    "suppression": 0.65,
    "mean": (0.0, 0.0, 0.0),  # it sees 0 to 255
    "std": (1 / 255, 1 / 255, 1 / 255),
}

_SSD: Node = {
    "name": "dense",
    "assignment": "best_iou",
    "code": {"name": "offsets", "weights": (10, 10, 5, 5)},
    "class_loss": "softmax",
    "box_loss": "smooth_l1",
    "divided_by": "batch",
    "candidates_of": "class",
    "divisor": 1,
}
_DENSE: dict[str, tuple[Node, Node, tuple[int, int]]] = {  # as _DETECTORS; a channel for each category from 0 on
    "retinanet_resnet50_fpn": (
        {"name": "retinanet", "backbone": {**_RESNET50, "epsilon": 0.0}},
        {"name": "dense"},
        (800, 1333),
    ),
    "retinanet_resnet50_fpn_v2": (
        {"name": "retinanet", "top": "backbone", "norm": "group"},
        {"name": "dense", "box_loss": "giou"},
        (800, 1333),
    ),
    "fcos_resnet50_fpn": (
        {"name": "fcos", "backbone": _RESNET50},
        {
            "name": "dense",
            "assignment": "centre",
            "code": "distances",
            "box_loss": "giou",
            "quality": "centreness",
            "divided_by": "batch",
            "score_threshold": 0.2,
            "suppression": 0.6,
            "detections": 100,
        },
        (800, 1333),
    ),
}
_SQUARE: dict[str, tuple[Node, Node, int]] = {  # network, task, side of its images, whatever shape they had
    "ssd300_vgg16": (
        {"name": "ssd"},
        {
            **_SSD,
            "score_threshold": 0.01,
            "candidates": 400,
            "suppression": 0.45,
            "detections": 200,
            "mean": COCO_MEAN,
            "std": (1 / 255,) * 3,
        },
        300,
    ),
    "ssdlite320_mobilenet_v3_large": (
        {"name": "ssdlite"},
        {
            **_SSD,
            "score_threshold": 0.001,
            "candidates": 300,
            "suppression": 0.55,
            "detections": 300,
            "mean": (0.5,) * 3,
            "std": (0.5,) * 3,
        },
        320,
    ),
}


class Recipe(NamedTuple):
    """A network as its weights need it: nodes of a config; height and width of its images; a list of `labels`.

    channels: of its answers, where there are more of them than classes: each class answers in the channel of its
      identifier.
    first: the identifier of the first channel.
    """

    name: str
    model: Node
    task: Node
    transform: Node
    image_size: tuple[int, int]
    classes: str
    channels: int | None = None
    first: int = 1


def known() -> list[str]:
    """List the names with a recipe: of torchvision's all but the networks that are not here, and others'."""
    every = (f"torchvision/{network}.{kind}" for kind, files in TORCHVISION.items() for network in files)
    hub = (f"hf/{repository}" for repository in huggingface.RECIPES)
    return [*filter(lambda name: not _lacking(_parts(name)[1]), every), *hub, *names.ALONE]


def find(name: str) -> Recipe:
    """Give the recipe of published weights.

    Args:
      name: torchvision/NETWORK.WEIGHTS (DEFAULT, or without .WEIGHTS: the newest), hf/OWNER/NAME,
        efficientnet_lite0 or yolox_SIZE.

    Raises:
      UserError: no such name, or weights of a network that is not here.
    """
    if name == names.LITE0:
        # TensorFlow's: levels as (x - 127) / 128, seven eighths of the image, a bicubic filter.
        return _classifier(name, names.LITE0, (224, 256), "bicubic", [127 / 255] * 3, [128 / 255] * 3)
    if name.removeprefix("hf/") in huggingface.RECIPES and name.startswith("hf/"):
        return _from_hub(name)
    if name in names.YOLOX:
        return _yolox(name)
    if not name.startswith("torchvision/"):
        raise UserError(f"{name!r} is neither a weight file nor weights whose network is known here.{_hint(name)}")
    network, kind = _parts(name)
    names.torchvision_file(network, kind or "DEFAULT")
    if kind in ("", "DEFAULT"):
        kind = next(kind for kind, files in TORCHVISION.items() if network in files)
    if reason := _lacking(kind):
        raise UserError(f"torchvision/{network}.{kind}: {reason}.")
    name = f"torchvision/{network}.{kind}"
    if network in _SEGMENTERS:
        return _segmenter(name, network)
    if network in _DETECTORS:
        found = _detector(name, *_DETECTORS[network])
        return found._replace(channels=1) if network.startswith("keypointrcnn") else found  # it finds persons alone
    if network in _DENSE:
        # Channel 0, which is never trained, stands where others have background.
        return _detector(name, *_DENSE[network])._replace(channels=COCO_CHANNELS + 1, first=0)
    if network in _SQUARE:
        model, task, side = _SQUARE[network]
        transform = {"name": "boxes", "max_boxes": 100, "fit": "stretch"}
        return Recipe(name, model, task, transform, (side, side), "coco", COCO_CHANNELS)
    if kind.startswith("IMAGENET1K_SWAG"):
        side = _SWAG[network.split("_")[1]] if "E2E" in kind else 224
        return _classifier(name, network, (side, side), "bicubic")
    version = kind.removeprefix("IMAGENET1K_")
    seen = _SEEN.get((network, version), (224, 232 if version == "V2" else 256))
    cubic = network.startswith("efficientnet") and version == "V1"
    return _classifier(name, network, seen, "bicubic" if cubic else "bilinear")


def classifier(network: str) -> Node | None:
    """Give the node of a classifier by torchvision's name, as "resnet50"; None where there is none."""
    for pattern, node in _CLASSIFIERS:
        if found := re.fullmatch(pattern, network):
            return node(*found.groups())
    return None


def _hint(name: str) -> str:
    if name.startswith("hf/"):
        return near(name, [one for one in known() if one.startswith("hf/")])
    if name.startswith("timm/"):
        return " timm's can be trained from (--init_from); how each of them sees images is not known here."
    networks = {one.partition(".")[0].removeprefix("torchvision/") for one in known()}
    hint = near(name.removeprefix("torchvision/").partition(".")[0], networks)
    if not hint.startswith(" Did"):
        return f" Names are torchvision/NETWORK.WEIGHTS, {names.LITE0} and yolox_SIZE."
    return re.sub(r"'(\w+)'", lambda found: repr(_whole(found[1])), hint)


def _whole(network: str) -> str:
    return network if network in names.ALONE else f"torchvision/{network}"


def _parts(name: str) -> tuple[str, str]:
    network, _, kind = name.removeprefix("torchvision/").partition(".")
    return network, kind


def _lacking(kind: str) -> str:
    """Say why there is no recipe for weights that torchvision has; "" where there is one."""
    if kind == "IMAGENET1K_FEATURES":
        return "these weights have no classifier, so they answer nothing; train one with --init_from"
    return ""


def _classifier(
    name: str,
    network: str,
    seen: tuple[int, int],
    interpolation: str,
    mean: list[float] | None = None,
    std: list[float] | None = None,
) -> Recipe:
    node = classifier(network)
    assert node is not None
    side, resized = seen
    task = {"name": "classify"} | ({"mean": tuple(mean), "std": tuple(std)} if mean and std else {})
    transform = {"name": "crops", "fit": "crop", "crop_share": side / resized, "interpolation": interpolation}
    return Recipe(name, node, task, transform, (side, side), "imagenet")


def _segmenter(name: str, network: str) -> Recipe:
    transform = {"name": "pixelwise", "fit": "shorter", "shorter": 520, "longest": 0, "multiple": 8}
    return Recipe(name, _SEGMENTERS[network], {"name": "segment"}, transform, (520, 520), "voc")


def _from_hub(name: str) -> Recipe:
    """The recipe of a detector of transformers."""
    one = huggingface.RECIPES[name.removeprefix("hf/")]
    return Recipe(name, one.model, one.task, one.transform, one.image_size, "coco", one.channels, one.first)


def _detector(name: str, model: Node, task: Node, sides: tuple[int, int]) -> Recipe:
    shorter, longest = sides
    transform = {"name": "boxes", "max_boxes": 100, "fit": "shorter", "shorter": shorter, "longest": longest}
    transform["multiple"] = 32
    size = (-(-shorter // 32) * 32, -(-longest // 32) * 32)
    return Recipe(name, model, task, transform, size, "coco", COCO_CHANNELS)


def _yolox(name: str) -> Recipe:
    """YOLOX sees 0 to 255, blue first, and images at the upper left of a grey square."""
    size = name.removeprefix("yolox_")
    side = 416 if size in ("nano", "tiny") else 640
    seen = {"fit": "shorter", "shorter": side, "longest": side, "multiple": 0, "fill": (114, 114, 114)}
    task = {**YOLOX_TASK, "best_class": True}
    transform = {"name": "boxes", "max_boxes": 100, **seen}
    return Recipe(name, {"name": "yolox", "size": size}, task, transform, (side, side), "coco")

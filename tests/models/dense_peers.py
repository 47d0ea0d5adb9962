"""torchvision's dense detectors with random weights that find things, and ours, for the parity tests."""

import re

import pytest

from mapjax.weights import recipes

torch = pytest.importorskip("torch")
torchvision = pytest.importorskip("torchvision")

NAMES = (
    "retinanet_resnet50_fpn",
    "retinanet_resnet50_fpn_v2",
    "fcos_resnet50_fpn",
    "ssd300_vgg16",
    "ssdlite320_mobilenet_v3_large",
)
PARAMETERS = (34_014_999, 38_198_935, 32_269_600, 35_641_826, 3_440_060)  # num_params of torchvision's weights
LAST = re.compile(r"cls_logits|bbox_reg|bbox_ctrness|module_list\.\d+(\.1)?")


def side_of(name):
    """The side that a network squashes its images to; None: any size."""
    return {"ssd300": 300, "ssdlite320": 320}.get(name.partition("_")[0])


def nodes(name):
    """Ours: the network and the task of the published weights, but with batch norm, as torchvision builds it."""
    recipe = recipes.find(f"torchvision/{name}")
    model = dict(recipe.model)
    if "backbone" in model:
        model["backbone"] = {key: value for key, value in model["backbone"].items() if key not in ("norm", "epsilon")}
    return model, dict(recipe.task)


@torch.no_grad()
def network(name, classes, images, **options):
    """Theirs, with random statistics, and heads scaled: logits and deltas vary, and few scores are high.

    Args:
      classes: channels of its scores.
      images: (b 3 h w), as its backbone is given them.
      options: of the network.
    """
    torch.manual_seed(len(name))
    build = getattr(torchvision.models.detection, name)
    found = build(weights=None, weights_backbone=None, num_classes=classes, **options).eval()
    generator = torch.Generator().manual_seed(0)
    for module in found.modules():
        if hasattr(module, "running_mean"):
            size = module.running_mean.shape
            module.running_mean.copy_(torch.randn(size, generator=generator) * 0.1)
            module.running_var.copy_(torch.rand(size, generator=generator) * 0.5 + 0.75)
            module.weight.copy_(torch.rand(size, generator=generator) * 0.5 + 0.75)
            module.bias.copy_(torch.randn(size, generator=generator) * 0.1)
    for layer in found.backbone.modules() if "ssdlite" in name else ():
        if isinstance(layer, torch.nn.Conv2d):  # torchvision's own weights are so small that all images look the same
            torch.nn.init.kaiming_normal_(layer.weight)
    maps = list(found.backbone(images).values())
    for part, deviation in (("classification_head", 1.5), ("regression_head", 0.5)):
        head = getattr(found.head, part)
        layers = {key: layer for key, layer in head.named_modules() if LAST.fullmatch(key) and hasattr(layer, "bias")}
        seen = {key: [] for key in layers}
        hooks = [
            layer.register_forward_hook(lambda module, inputs, outputs, seen=seen[key]: seen.append(outputs))
            for key, layer in layers.items()
        ]
        head(maps)
        for hook in hooks:
            hook.remove()
        for key, layer in layers.items():
            values = torch.cat([x.transpose(0, 1).flatten(1) for x in seen[key]], 1)
            mean = values.mean(1)
            scale = deviation / (values - mean[:, None]).std().clamp(min=1e-3)
            layer.weight.mul_(scale)
            layer.bias.copy_((layer.bias - mean) * scale)
            if key == "cls_logits":
                layer.bias.sub_(2.5)
            if key == "bbox_reg" and "fcos" in name:
                layer.bias.add_(2.0)
            if "ssd" in name and part == "classification_head":
                layer.bias.reshape(-1, classes)[:, 0].add_(3.0)
    return found

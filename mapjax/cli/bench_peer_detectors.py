"""What bench.py times one-stage detectors against: torchvision's RetinaNet, FCOS and SSD, transformers' RT-DETR.

Imported only where torch is installed. Each is trained as ours beside it: all layers, frozen normalization.
"""

import importlib.util
from collections.abc import Callable
from typing import Any

import torch  # pyright: ignore[reportMissingImports]
import torchvision  # pyright: ignore[reportMissingImports]

from mapjax.cli.bench_detectors import ADAMW, CLASSES, DENOISING, SGD, truth
from mapjax.cli.bench_peers import DEVICE, step_of, wait
from mapjax.errors import UserError

DETECTION = torchvision.models.detection


def calls(name: str, config: Any) -> tuple[Callable[[], None], Callable[[], None]]:
    """Make a peer's forward pass in evaluation mode, without decoding, and its train step, eagerly."""
    model = _network(name).to(DEVICE)
    images = torch.rand(config.batch, 3, *config.image_size, device=DEVICE)
    boxes, classes = (torch.from_numpy(one).to(DEVICE) for one in truth(config))
    if name == "rt_detr":
        side = config.image_size[0]
        middles, sizes = (boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]
        shares = torch.cat([middles, sizes], -1) / side
        targets = [{"boxes": box, "class_labels": label.long()} for box, label in zip(shares, classes)]
        optimizer = torch.optim.AdamW(model.parameters(), lr=ADAMW["learning_rate"])
        taught = step_of(model, lambda: model(images, labels=targets).loss, optimizer, config.dtype, clip=ADAMW["clip"])
        return _forward(model, lambda: model(images), config.dtype), _training(model, taught)
    first = 1 if name == "ssd" else 0  # its channel 0 is the background
    targets = [{"boxes": box, "labels": label.long() + first} for box, label in zip(boxes, classes)]
    optimizer = torch.optim.SGD(model.parameters(), lr=SGD["learning_rate"], momentum=0.9)
    taught = step_of(model, lambda: sum(model(list(images), targets).values()), optimizer, config.dtype)
    said = _forward(model, lambda: model.head(list(model.backbone(images).values())), config.dtype)
    return said, _training(model, taught)


def _network(name: str) -> Any:
    if name == "rt_detr":
        if importlib.util.find_spec("transformers") is None:
            raise UserError("--peer times transformers' RT-DETR; it is not installed: pip install transformers.")
        import transformers  # pyright: ignore[reportMissingImports]

        options: dict[str, Any] = {"num_denoising": DENOISING, "num_labels": CLASSES}
        return transformers.RTDetrV2ForObjectDetection(transformers.RTDetrV2Config(**options))
    if name == "ssd":
        return DETECTION.ssd300_vgg16(weights=None, weights_backbone=None, num_classes=CLASSES + 1)
    build = DETECTION.backbone_utils
    kind = DETECTION.RetinaNet if name == "retinanet" else DETECTION.FCOS
    body = build.resnet_fpn_backbone(
        backbone_name="resnet50",
        weights=None,
        norm_layer=torchvision.ops.FrozenBatchNorm2d,
        trainable_layers=5,
        returned_layers=[2, 3, 4],
        extra_blocks=torchvision.ops.feature_pyramid_network.LastLevelP6P7(256, 256),
    )
    return kind(body, CLASSES, min_size=32, max_size=4096, _skip_resize=True)


def _training(model: Any, step: Callable[[], None]) -> Callable[[], None]:
    def once() -> None:
        model.train()
        step()

    return once


def _forward(model: Any, said: Callable[[], Any], dtype: str) -> Callable[[], None]:
    def once() -> None:
        model.eval()
        with torch.inference_mode(), torch.autocast(DEVICE, torch.bfloat16, enabled=dtype == "bfloat16"):
            said()
        wait()

    return once

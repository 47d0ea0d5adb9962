"""What bench.py times mapjax against: torchvision's networks, training steps and input pipeline.

Imported only where torch is installed.
"""

import itertools
import os
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch  # pyright: ignore[reportMissingImports]
import torchvision  # pyright: ignore[reportMissingImports]

from mapjax.cli import bench_runs
from mapjax.cli.bench_parts import CLASSES

torch.set_num_threads(len(os.sched_getaffinity(0)))
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def detector_step(config: Any, *, compiled: bool = False, boxes: Sequence[Any] = ()) -> Callable[[], None]:
    """Make torchvision's step on random images: of its Mask R-CNN where the config's task has masks.

    The time of boxes does not depend on what they show, that of masks on how many there are.

    Args:
      compiled: torch.compile takes the networks in it; what depends on data, proposals and samples, stays as it is.
      boxes: of each image its objects (n 4), in pixels; 12 random ones where it is empty.
    """
    model = _detector(config).train()
    model.to(DEVICE)
    if compiled:
        model.backbone, model.rpn.head = torch.compile(model.backbone), torch.compile(model.rpn.head)
        model.roi_heads.box_head = torch.compile(model.roi_heads.box_head, dynamic=True)
    height, width = config.image_size
    images = [torch.rand(3, height, width, device=DEVICE) for _ in range(config.batch)]
    objects = boxes or _random_boxes(config.batch, height, width)
    truth = [_truth(some, height, width) for some in objects]

    def loss() -> Any:
        return sum(model(images, truth).values())

    if config.optimizer.name == "sgd":
        return step_of(model, loss, torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9), config.dtype)
    return step_of(model, loss, torch.optim.AdamW(model.parameters(), lr=1e-5), config.dtype, clip=10.0)


def _detector(config: Any) -> Any:
    norms = torchvision.ops.FrozenBatchNorm2d, torch.nn.BatchNorm2d
    body = torchvision.models.detection.backbone_utils.resnet_fpn_backbone(
        backbone_name=f"resnet{config.model.backbone.depth}",
        weights=None,
        norm_layer=norms[config.model.backbone.get("norm") != "frozen"],
        trainable_layers=5,
    )
    found = torchvision.models.detection
    kind = found.MaskRCNN if bench_runs.has_masks(config) else found.FasterRCNN
    return kind(body, 4, min_size=min(config.image_size), max_size=max(config.image_size))


def _random_boxes(count: int, height: int, width: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, [width * 0.7, height * 0.7], (count, 12, 2))
    return np.concatenate([corners, corners + rng.uniform(12, 0.3 * height, corners.shape)], -1).astype(np.float32)


def _truth(boxes: np.ndarray, height: int, width: int) -> dict[str, Any]:
    """Write the objects of an image as torchvision takes them; the mask of each is its box."""
    x, y = np.arange(width), np.arange(height)[:, None]
    left, top, right, bottom = (boxes[:, k, None, None] for k in range(4))
    masks = ((x >= left) & (x < right) & (y >= top) & (y < bottom)).astype(np.uint8)
    told = {"boxes": torch.tensor(boxes, device=DEVICE), "masks": torch.tensor(masks, device=DEVICE)}
    return told | {"labels": torch.ones(len(boxes), dtype=torch.long, device=DEVICE)}


def network(
    name: str, batch: int, side: int, *, train: bool, compiled: bool = False, dtype: str = "float32"
) -> Callable[[], None]:
    """Make a forward pass (evaluation mode), or a step of SGD with momentum, on the GPU where torch has one.

    Args:
      name: torchvision's of a classifier, or "unet".
      compiled: by torch.compile, with channels last as it likes them.
      dtype: "bfloat16" trains with autocast.
    """
    options = {"aux_logits": False, "init_weights": False} if name in ("googlenet", "inception_v3") else {}
    model: Any = UNet() if name == "unet" else torchvision.models.get_model(name, weights=None, **options)
    layout = torch.channels_last if compiled else torch.contiguous_format
    model = model.to(DEVICE, memory_format=layout).train(train)
    images = torch.rand(batch, 3, side, side, device=DEVICE).to(memory_format=layout)
    shape = (batch, side, side) if name == "unet" else (batch,)
    labels = torch.randint(0, CLASSES if name == "unet" else 1000, shape, device=DEVICE)
    called = torch.compile(model) if compiled else model
    if train:
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)
        return step_of(model, lambda: torch.nn.functional.cross_entropy(called(images), labels), optimizer, dtype)

    def forward() -> None:
        with torch.inference_mode():
            called(images)
        wait()

    return forward


def compiled_step(name: str, config: Any) -> Callable[[], None]:
    """Make the train step of a config's sizes by torch.compile: of "faster_rcnn", or of a network as above."""
    if name == "faster_rcnn":
        return detector_step(config, compiled=True)
    return network(name, config.batch, config.image_size[0], train=True, compiled=True, dtype=config.dtype)


def step_of(
    model: Any, loss: Callable[[], Any], optimizer: Any, dtype: str, *, clip: float | None = None
) -> Callable[[], None]:
    """Make a step of training: loss, gradients, with `clip` their norm bounded, and update."""

    def step() -> None:
        with torch.autocast(DEVICE, torch.bfloat16, enabled=dtype == "bfloat16"):
            value = loss()
        optimizer.zero_grad()
        value.backward()
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        wait()

    return step


def wait() -> None:
    """Wait for what a GPU has been given."""
    if DEVICE == "cuda":
        torch.cuda.synchronize()


class UNet(torch.nn.Module):
    """The same as models/segmenters/unet.py with its own encoder, by its defaults."""

    def __init__(self, classes: int = CLASSES, width: int = 32, depth: int = 4):
        super().__init__()
        widths = [min(width * 2**level, 512) for level in range(depth + 1)]
        self.down = torch.nn.ModuleList(map(_double, [3, *widths], widths))
        self.reduce = torch.nn.ModuleList(torch.nn.Conv2d(b, a, 1) for a, b in itertools.pairwise(widths))
        self.up = torch.nn.ModuleList(_double(2 * features, features) for features in widths[:-1])
        self.head = torch.nn.Conv2d(width, classes, 1)

    def forward(self, x: Any) -> Any:
        """Images (b 3 h w) → scores (b classes h w)."""
        kept = []
        for number, level in enumerate(self.down):
            x = level(torch.nn.functional.max_pool2d(x, 2) if number else x)
            kept.append(x)
        for number in reversed(range(len(self.up))):
            skip = kept[number]
            size: Any = skip.shape[2:]
            x = torch.nn.functional.interpolate(self.reduce[number](x), size, mode="bilinear")
            x = self.up[number](torch.cat([skip, x], 1))
        return self.head(x)


def _double(channels: int, features: int) -> Any:
    parts: list[Any] = []
    for inputs in (channels, features):
        convolution = torch.nn.Conv2d(inputs, features, 3, padding=1, bias=False)
        parts += [convolution, torch.nn.BatchNorm2d(features), torch.nn.ReLU(inplace=True)]
    return torch.nn.Sequential(*parts)


def answers(weights: str, size: tuple[int, int], count: int) -> Callable[[], None]:
    """Make torchvision's answer to images of height, width, by the network of weights; it has random ones.

    A classifier and a segmenter get images as their transform gives them, a detector has its own.
    """
    network, _, kind = weights.removeprefix("torchvision/").partition(".")
    published = torchvision.models.get_model_weights(network)[kind]
    transform: Any = published.transforms()
    model = torchvision.models.get_model(network, weights=None, **_options(network, transform)).eval()
    images = [transform(torch.rand(3, *size)) for _ in range(count)]
    given = images if type(transform).__name__ == "ObjectDetection" else torch.stack(images)

    def once() -> None:
        with torch.inference_mode():
            model(given)

    return once


def _options(network: str, transform: Any) -> dict[str, Any]:
    """What torchvision must be told so that it downloads nothing, and makes the network of these weights."""
    if type(transform).__name__ != "ImageClassification":
        return {"weights_backbone": None}
    if network in ("googlenet", "inception_v3"):
        return {"aux_logits": False, "init_weights": False}
    return {"image_size": transform.crop_size[0]} if network.startswith("vit") else {}


class _Images(torch.utils.data.Dataset):
    """JPEG files through PIL or torchvision's own decoder, a random crop of 224 pixels and a flip."""

    def __init__(self, files: Sequence[pathlib.Path], decoder: str):
        from torchvision.transforms import v2  # pyright: ignore[reportMissingImports]

        crops = [v2.RandomResizedCrop(224, antialias=True), v2.RandomHorizontalFlip()]
        self._files, self._decoder = files, decoder
        self._transform = v2.Compose([v2.PILToTensor(), *crops] if decoder == "pil" else crops)

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> Any:
        file = str(self._files[index])
        if self._decoder == "pil":
            import PIL.Image

            with PIL.Image.open(file) as image:
                return self._transform(image.convert("RGB"))
        mode = torchvision.io.ImageReadMode.RGB
        return self._transform(torchvision.io.decode_image(file, mode))


def loader(files: Sequence[pathlib.Path], batch: int, workers: int, decoder: str) -> Iterator[Any]:
    """Make torch's DataLoader over JPEG files, epoch after epoch."""
    options = {"shuffle": True, "drop_last": True, "persistent_workers": True, "num_workers": workers}
    made = torch.utils.data.DataLoader(_Images(files, decoder), batch, **options)
    while True:
        yield from made

"""What bench.py times mapjax against: torchvision's networks, training steps and input pipeline.

Imported only where torch is installed.
"""

import os
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch  # pyright: ignore[reportMissingImports]
import torchvision  # pyright: ignore[reportMissingImports]

torch.set_num_threads(len(os.sched_getaffinity(0)))


def detector_step(config: Any) -> Callable[[], None]:
    """Make torchvision's step on random images with 12 boxes each (its time does not depend on what they show)."""
    height, width = config.image_size
    body = torchvision.models.detection.backbone_utils.resnet_fpn_backbone(
        backbone_name=f"resnet{config.model.backbone.depth}",
        weights=None,
        norm_layer=torch.nn.BatchNorm2d,
        trainable_layers=5,
    )
    model = torchvision.models.detection.FasterRCNN(
        body, 4, min_size=min(height, width), max_size=max(height, width)
    ).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, [width * 0.7, height * 0.7], (config.batch, 12, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(12, 0.3 * height, corners.shape)], -1).astype(np.float32)
    images = [torch.rand(3, height, width) for _ in range(config.batch)]
    truth = [{"boxes": torch.tensor(b), "labels": torch.ones(12, dtype=torch.long)} for b in boxes]

    def once() -> None:
        loss: Any = sum(model(images, truth).values())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()

    return once


def network(name: str, batch: int, side: int, *, train: bool) -> Callable[[], None]:
    """Make a forward pass (evaluation mode), or a step of SGD with momentum, of torchvision's network of that name."""
    options = {"aux_logits": False, "init_weights": False} if name in ("googlenet", "inception_v3") else {}
    model = torchvision.models.get_model(name, weights=None, **options)
    images, labels = torch.rand(batch, 3, side, side), torch.arange(batch) % 1000
    if not train:
        model.eval()

        def forward() -> None:
            with torch.inference_mode():
                model(images)

        return forward
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)

    def step() -> None:
        loss = torch.nn.functional.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def compiled_network(name: str, batch: int, side: int, dtype: str) -> Callable[[], None]:
    """Make a step of SGD of torchvision's network by torch.compile, on the GPU where torch has one."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = torch.compile(
        torchvision.models.get_model(name, weights=None).to(device, memory_format=torch.channels_last)
    )
    images = torch.rand(batch, 3, side, side, device=device).to(memory_format=torch.channels_last)
    labels = torch.arange(batch, device=device) % 1000
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)

    def step() -> None:
        with torch.autocast(device, torch.bfloat16, enabled=dtype == "bfloat16"):
            loss = torch.nn.functional.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()

    return step


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

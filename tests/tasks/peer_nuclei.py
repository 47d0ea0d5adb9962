"""torchvision's Mask R-CNN on nuclei for some minutes: what `experiments/instance.py:nuclei` is measured against.

    python tests/tasks/peer_nuclei.py --data DIR --minutes 20

From random weights, a ResNet-18 with a feature pyramid, images of their own size (256×256), batches of 4, mirrored and
brightened, AdamW with a cosine; anchors as small as nuclei, and 300 detections an image. Heads, pyramid and samples are
torchvision's; with --small those of the recipe, to compare steps of the same size. It needs torch, torchvision and
pycocotools, and no mapjax. Run it alone on the machine: --minutes are of training. It prints losses, the mean time
of a step, and mask AP and AP50 of the split "val" by pycocotools.
"""

import argparse
import json
import math
import pathlib
import random
import time
from typing import Any

import numpy as np
import torch  # pyright: ignore[reportMissingImports]
from pycocotools import mask as run_lengths  # pyright: ignore[reportMissingImports]
from pycocotools.coco import COCO  # pyright: ignore[reportMissingImports]
from pycocotools.cocoeval import COCOeval  # pyright: ignore[reportMissingImports]
from torchvision.io import ImageReadMode, read_image  # pyright: ignore[reportMissingImports]
from torchvision.models import resnet18  # pyright: ignore[reportMissingImports]
from torchvision.models.detection import MaskRCNN  # pyright: ignore[reportMissingImports]
from torchvision.models.detection.anchor_utils import AnchorGenerator  # pyright: ignore[reportMissingImports]
from torchvision.models.detection.backbone_utils import (  # pyright: ignore[reportMissingImports]
    BackboneWithFPN,
    resnet_fpn_backbone,
)
from torchvision.models.detection.faster_rcnn import (  # pyright: ignore[reportMissingImports]
    FastRCNNPredictor,
    TwoMLPHead,
)
from torchvision.models.detection.mask_rcnn import (  # pyright: ignore[reportMissingImports]
    MaskRCNNHeads,
    MaskRCNNPredictor,
)
from torchvision.ops import MultiScaleRoIAlign  # pyright: ignore[reportMissingImports]

BATCH, RATE, DECAY, CLIP, WARMUP, SIDE = 4, 4e-4, 0.05, 10.0, 100, 256
SIZES = ((12,), (24,), (48,), (96,), (192,))
FIRST = 5  # steps that are not timed


def main() -> None:
    """Train, then score."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, type=pathlib.Path, help="a folder with annotations/, train/ and val/")
    parser.add_argument("--minutes", type=float, default=20.0, help="of training")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--small", action="store_true", help="a network of the recipe's sizes")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    random.seed(0)
    model = network(given.small)
    train(model, read(given.data, "train"), 60 * given.minutes)
    score(model, given.data)


def network(small: bool) -> Any:
    """Make the network: one class and the background."""
    anchors = AnchorGenerator(SIZES, ((0.5, 1.0, 2.0),) * len(SIZES))
    options = {"min_size": SIDE, "max_size": SIDE, "rpn_anchor_generator": anchors, "box_detections_per_img": 300}
    norm = torch.nn.BatchNorm2d
    if not small:
        body = resnet_fpn_backbone(backbone_name="resnet18", weights=None, norm_layer=norm, trainable_layers=5)
        return MaskRCNN(body, 2, **options)
    stages = {f"layer{stage}": str(stage - 1) for stage in range(1, 5)}
    body = BackboneWithFPN(resnet18(weights=None, norm_layer=norm), stages, [64, 128, 256, 512], 128)
    proposals = {f"rpn_{when}_nms_top_n_{use}": 500 for when in ("pre", "post") for use in ("train", "test")}
    return MaskRCNN(
        body,
        None,
        box_head=TwoMLPHead(128 * 7 * 7, 512),
        box_predictor=FastRCNNPredictor(512, 2),
        mask_roi_pool=MultiScaleRoIAlign(["0", "1", "2", "3"], 7, 2),
        mask_head=MaskRCNNHeads(128, (128,) * 3, 1),
        mask_predictor=MaskRCNNPredictor(128, 128, 2),
        box_batch_size_per_image=128,
        box_positive_fraction=0.5,
        **proposals,
        **options,
    )


def read(folder: pathlib.Path, split: str) -> list[tuple[Any, dict[str, Any]]]:
    """Read all images (3 h w, bytes) of a split, each with its boxes, labels and masks."""
    said = json.loads((folder / "annotations" / f"instances_{split}.json").read_text())
    objects: dict[int, list[Any]] = {one["id"]: [] for one in said["images"]}
    for one in said["annotations"]:
        objects[one["image_id"]].append(one)
    found = []
    for image in said["images"]:
        kept = objects[image["id"]]
        pixels = read_image(str(folder / split / image["file_name"]), ImageReadMode.RGB)
        masks = np.stack([drawn(one["segmentation"]) for one in kept]) if kept else np.zeros((0, *pixels.shape[1:]))
        corners = np.array([one["bbox"] for one in kept], np.float32).reshape(-1, 4)
        corners[:, 2:] += corners[:, :2]
        target = {"boxes": torch.from_numpy(corners), "masks": torch.from_numpy(masks.astype(np.uint8))}
        found.append((pixels, target | {"labels": torch.ones(len(kept), dtype=torch.int64)}))
    return found


def drawn(segmentation: Any) -> Any:
    """Draw run lengths."""
    return run_lengths.decode(run_lengths.frPyObjects(segmentation, *segmentation["size"]))


def augmented(image: Any, target: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Mirror an image and its objects, either way, and change its brightness."""
    boxes, masks = target["boxes"].clone(), target["masks"]
    for axis, length in ((0, image.shape[2]), (1, image.shape[1])):
        if random.random() < 0.5:
            image, masks = image.flip(2 - axis), masks.flip(2 - axis)
            boxes[:, [axis, axis + 2]] = length - boxes[:, [axis + 2, axis]]
    bright = (image.float() / 255 * random.uniform(0.8, 1.2)).clamp(0, 1)
    return bright, {"boxes": boxes, "masks": masks, "labels": target["labels"]}


def train(model: Any, data: list[tuple[Any, dict[str, Any]]], seconds: float) -> None:
    """Train for so many seconds, the learning rate falling with the time that is gone."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=DECAY)
    model.train()
    began, step, ends = time.perf_counter(), 0, [0.0]
    order: list[int] = []
    while (gone := time.perf_counter() - began) < seconds:
        if len(order) < BATCH:
            order = random.sample(range(len(data)), len(data))
        batch = [augmented(*data[order.pop()]) for _ in range(BATCH)]
        rate = RATE * min(1.0, step / WARMUP) * 0.5 * (1 + math.cos(math.pi * gone / seconds))
        for group in optimizer.param_groups:
            group["lr"] = rate
        losses = model([image for image, _ in batch], [target for _, target in batch])
        optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        step += 1
        ends.append(time.perf_counter() - began)
        if step % 20 == 0:
            print(step, f"{gone:.0f} s", {name: round(float(value), 3) for name, value in losses.items()}, flush=True)
    timed = ends[min(FIRST, step - 1) :]
    mean = (timed[-1] - timed[0]) / (len(timed) - 1)
    median = float(np.median(np.diff(timed)))
    print(f"{step} steps of {BATCH} images in {ends[-1]:.0f} s; a step: mean {mean:.3f} s, median {median:.3f} s")


def score(model: Any, folder: pathlib.Path) -> None:
    """Score masks of the split "val" as COCO does."""
    truth = COCO(str(folder / "annotations" / "instances_val.json"))
    model.eval()
    found, began = [], time.perf_counter()
    for number, (image, _) in zip(truth.getImgIds(), read(folder, "val"), strict=True):
        with torch.inference_mode():
            answer = model([image.float() / 255])[0]
        masks = np.asfortranarray((answer["masks"][:, 0] > 0.5).numpy().astype(np.uint8).transpose(1, 2, 0))
        for mask, likely in zip(run_lengths.encode(masks), answer["scores"].tolist(), strict=True):
            found.append({"image_id": number, "category_id": 1, "segmentation": mask, "score": likely})
    print(f"{len(found)} masks in {time.perf_counter() - began:.0f} s", flush=True)
    if not found:
        print("mask AP 0.000, AP50 0.000")
        return
    evaluation = COCOeval(truth, truth.loadRes(found), "segm")  # pyright: ignore[reportArgumentType]
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    print(f"mask AP {evaluation.stats[0]:.3f}, AP50 {evaluation.stats[1]:.3f}")


if __name__ == "__main__":
    main()

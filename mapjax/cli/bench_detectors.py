"""What bench.py times of one-stage detectors: the step and the answer of published networks with COCO's 80 classes.

Images are noise with 12 boxes each, padded to 100 as in training; a peer gets the 12 (bench_peer_detectors.py).
"""

from typing import Any

import jax
import numpy as np

from mapjax.cli.bench_parts import Timed
from mapjax.config import load as configs
from mapjax.engine import step
from mapjax.plan.step import blank_source
from mapjax.runs import setup
from mapjax.weights import recipes

NETWORKS = {  # of --networks → weights whose network it is
    "retinanet": "torchvision/retinanet_resnet50_fpn",
    "fcos": "torchvision/fcos_resnet50_fpn",
    "ssd": "torchvision/ssd300_vgg16",
    "rt_detr": "hf/PekingU/rtdetr_v2_r50vd",
}
SIDES = {"ssd": 300}  # of networks that know one size only
CLASSES, BOXES, ROWS = 80, 12, 100
DENOISING = 100  # as RT-DETR is trained
SGD = {"name": "sgd", "learning_rate": 1e-4, "weight_decay": 0.0, "clip": 0.0}
ADAMW = {"learning_rate": 1e-5, "weight_decay": 1e-4, "clip": 0.1}


def config_of(name: str, batch: int, side: int, dtype: str = "float32") -> Any:
    """Make the config of a network of `NETWORKS`, for square images."""
    recipe = recipes.find(NETWORKS[name])
    sets = recipe.task["name"] == "set_prediction"
    values = {
        "dtype": dtype,
        "data": {"name": "coco", "path": "data/coco"},
        "image_size": (SIDES.get(name, side),) * 2,
        "transform": {"name": "boxes", "max_boxes": ROWS},
        "batch": batch,
        "eval_batch": batch,
        "model": dict(recipe.model),
        "task": {**recipe.task, **({"denoising": DENOISING} if sets else {})},
        "optimizer": ADAMW if sets else SGD,
    }
    return configs.from_dict(values)


def truth(config: Any) -> tuple[np.ndarray, np.ndarray]:
    """Draw the boxes (b 12 4; pixels) and classes (b 12) of a batch, from the smallest objects to half the image."""
    rng, side = np.random.default_rng(0), config.image_size[0]
    corners = rng.uniform(0, 0.7 * side, (config.batch, BOXES, 2))
    sizes = np.exp(rng.uniform(np.log(12), np.log(0.5 * side), corners.shape))
    boxes = np.concatenate([corners, np.minimum(corners + sizes, side)], -1)
    return boxes.astype(np.float32), rng.integers(0, CLASSES, corners.shape[:2]).astype(np.int32)


def calls(config: Any) -> tuple[Timed, Timed]:
    """Make our forward pass of a batch, without decoding, and our train step: loss, gradients and update."""
    source = blank_source(config, CLASSES, 1000)
    made = setup.build(config, opened=(config, source, source), counts=lambda _: np.ones(CLASSES, np.int64))
    program, batch = made.program, _batch(config, made.batches[-1])
    compiled = program.compile(made.batches[-1])
    kept = [step.draw_state(program.init, made.batches[-1], program.places)]
    variables = jax.tree.map(np.asarray, {"params": kept[0].params, "stats": kept[0].stats})
    variables, key = jax.device_put(variables), jax.random.key(0)
    forward = jax.jit(lambda variables, batch: {**made.task.predict(variables, batch, key), "features": None})

    def once() -> None:
        kept[0], scalars = compiled(kept[0], batch)
        jax.block_until_ready(scalars)

    def only_forward() -> None:
        jax.block_until_ready(forward(variables, batch))

    def text() -> str:
        return forward.lower(variables, batch).compile().as_text() or ""

    return Timed(only_forward, text), Timed(once, compiled.as_text)


def _batch(config: Any, like: Any) -> Any:
    """Fill the shapes of a batch: noise, and the truth in the first rows of its lists."""
    rng, (boxes, classes) = np.random.default_rng(0), truth(config)
    batch = jax.tree.map(lambda one: np.zeros(one.shape, one.dtype), like)
    batch["image"][:] = rng.integers(0, 256, batch["image"].shape, np.uint8)
    batch["boxes"][:, :BOXES], batch["classes"][:, :BOXES] = boxes, classes
    batch["valid"][:, :BOXES], batch["mask"][:] = True, True
    batch["size"][:] = config.image_size
    batch["matrix"][:] = np.eye(3)
    return jax.device_put(batch)

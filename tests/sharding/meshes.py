"""Trains tiny tasks on one device and on meshes of 8 forced ones, and prints how far apart they end; a program.

    python tests/sharding/meshes.py '[["vit", {"data": 2, "model": 2, "pipe": 2}, {}]]'

Each case is a task, a mesh and options of make_step. A line of JSON a case: the relative differences of losses and
gradient norms in each of 3 steps, of the gradients' sum (that is momentum) and of the parameters after them, all in
double precision; and the collectives of the compiled step, with what they may be.
"""

import json
import math
import os
import sys
import time

# Sums over different axes, begun in another order on each device, hold a thread each until all devices have come: there
# must be enough. A device that waits on a busy machine is no hang yet.
os.environ["NPROC"] = "256"
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8 --xla_cpu_multi_thread_eigen=false "
    "--xla_cpu_collective_call_terminate_timeout_seconds=120"
)

import double  # noqa: F401 - everything from here on is
import jax
import numpy as np
import optax
from compare import BATCH, classified, difference, distance

from mapjax import paths
from mapjax.config import parts
from mapjax.data.formats import scenes
from mapjax.engine import evaluate, muon
from mapjax.engine import step as train
from mapjax.models.backbones import resnet
from mapjax.plan import collectives
from mapjax.sharding import mesh as shard

# A few blocks of each kind compile in seconds; bottlenecks are the networks of 50 and more.
resnet.STAGES |= {10: (2, 1, 0, 0), 59: (2, 0, 0, 0), 14: (3, 1, 0, 0), 62: (3, 1, 0, 0), 11: (1, 1, 0, 0)}

VIT = {"name": "vit", "width": 32, "depth": 4, "heads": 4, "mlp": 96, "patch": 4, "image_size": 32, "stacked": True}
RESNET = {"name": "resnet", "stem": "small"}
DETECTOR = {
    "name": "faster_rcnn",
    "backbone": {"name": "resnet", "depth": 18, "width": 0.25},
    "channels": 16,
    "representation": 32,
    "anchor_sizes": ((8,), (16,), (32,), (64,), (128,)),
}
MODELS = {
    "vit": VIT,
    "vit_flat": {**VIT, "depth": 2, "stacked": False},
    "vit_remat": {**VIT, "remat": True},
    "vit_dots": {**VIT, "remat": "dots"},
    "vit_dropped": {**VIT, "stochastic_depth": 0.3},
    "basic": {**RESNET, "depth": 10, "width": 0.25},
    "bottleneck": {**RESNET, "depth": 59, "width": 0.25},
    "basic_stack": {**RESNET, "depth": 14, "width": 0.25, "norm": "group", "stacked": True},
    "bottleneck_stack": {**RESNET, "depth": 62, "width": 0.25, "norm": "frozen", "stacked": True},
    "resnet11": {**RESNET, "depth": 11, "width": 0.25},
    "resnet18_large": {**RESNET, "depth": 18, "width": 0.25},
    # As the identity at first: 16 random blocks magnify a change of 1e-7 in the images to a half of the gradients.
    "resnet50": {**RESNET, "depth": 50, "width": 0.125, "zero_init": True},
    "resnet_remat": {**RESNET, "depth": 11, "width": 0.25, "remat": True},
    # So many channels that those of its convolutions which are split are not made into tiles.
    "vgg": {"name": "vgg", "depth": 11, "width": 0.28125, "dropout": 0.0},
    "googlenet": {"name": "googlenet", "width": 0.25, "dropout": 0.0, "aux": False},
    "mobilenet": {"name": "mobilenet", "version": 3, "size": "small", "width": 0.5, "dropout": 0.0},
    "convnext": {"name": "convnext", "depths": (1, 1), "widths": (8, 16), "layer_scale": 1.0, "stochastic_depth": 0.0},
    "detector": DETECTOR,
}
PLAIN = {"vit_remat": "vit", "vit_dots": "vit", "resnet_remat": "resnet11"}  # what one device computes them as
# No map has as many numbers as a kernel that is gathered; and kernels of 4×4 maps are not made into tiles.
SIDES = {
    "vit": 32,
    "vgg": 32,
    "convnext": 32,
    "googlenet": 16,
    "mobilenet": 32,
    "resnet": 16,
    "resnet18_large": 28,
    "bottleneck_stack": 5,
} | dict.fromkeys(("basic", "bottleneck"), 4)
SIDES["basic_stack"] = 4


def detected(seed: int) -> dict:
    """Give the scenes of digits of a seed, as a batch."""
    source = scenes.make(split="train", seed=seed, train_length=8, size=(64, 64), digit_size=(12, 32))
    transform = parts.make("data.transforms", {"name": "boxes", "max_boxes": 8, "augment": None}, size=(64, 64))
    rows = [transform(source.records[i], np.random.default_rng(0)) | {"index": np.int32(i)} for i in range(8)]
    return {key: np.stack([row[key] for row in rows]) for key in rows[0]} | {"mask": np.ones(8, bool)}


def optimizer(name: str, params, rate: float) -> optax.GradientTransformation:
    """Make momentum, or Muon with momentum for what is no matrix."""
    if name == "momentum":
        return optax.sgd(rate, momentum=0.9)
    return optax.chain(muon.make(params, 0.9, optax.trace(0.9)), optax.scale(-rate))


def trained(model, task, batches, mesh, rate: float, options, begun=None):
    """Train 3 steps on a mesh: the scalars of each, the end, the compiled step, shapes and places, the beginning.

    Args:
      begun: the beginning on one device; where parameters are split over `fsdp`, they are drawn in their parts.
    """
    options = {"optimizer": "momentum", **options}
    params = jax.eval_shape(task.init, jax.random.key(0), batches[0])["params"]
    tx = optimizer(options.pop("optimizer"), params, rate)
    batch = jax.device_put(batches[0], shard.batch_sharding(mesh, len(batches[0]["mask"])))
    shapes = jax.eval_shape(lambda: train.init_state(task, tx, batches[0], seed=0, ema=0.9))
    places = shard.placement(shapes, mesh, model.rules)
    shard.require_used(places, mesh)
    if begun is None or mesh.shape["fsdp"] > 1:
        state = train.draw_state(lambda batch: train.init_state(task, tx, batch, seed=0, ema=0.9), batch, places)
    else:
        state = jax.device_put(begun, places)
    begun = jax.device_get(state)
    split = places.params if mesh.shape["fsdp"] > 1 else None
    step = train.make_step(task, tx, seed=0, ema=0.9, places=split, **options)
    with jax.set_mesh(mesh):
        compiled = jax.jit(step, donate_argnums=0, out_shardings=(places, None)).lower(state, batch).compile()
    scalars = []
    for batch in batches:
        placed = jax.device_put(batch, shard.batch_sharding(mesh, len(batch["mask"])))
        state, found = jax.block_until_ready(compiled(state, placed))
        scalars.append(jax.device_get(found))
    return scalars, jax.device_get(state), compiled, shapes, places, begun


def followed(places) -> list[bool]:
    """Tell for the moving average, and for momentum where all have it, whether they are where the parameters are."""
    kept = [optax.tree_utils.tree_get(places.opt, "trace")] if not hasattr(places.opt[0], "inner_states") else []
    wanted = [place.spec for place in jax.tree.leaves(places.params)]
    return [[place.spec for place in jax.tree.leaves(part)] == wanted for part in (places.ema, *kept)]


def sizes_of(shapes, places) -> list[list[int]]:
    """Give the bytes of each parameter: of one block where it is used, and whole; of all blocks where they are used."""

    def bytes_of(path, leaf, place):
        blocks = leaf.shape[0] if shard.STACK in path else 1
        used = jax.sharding.NamedSharding(place.mesh, place.spec).shard_shape(leaf.shape)
        here = blocks // place.mesh.shape["pipe"] if "pipe" in str(place.spec) else blocks
        ways = place.mesh.shape["fsdp"] if "fsdp" in jax.tree.leaves(tuple(place.spec)) else 1
        whole = 8 * math.prod(used) * ways
        return [whole // here, 8 * leaf.size // blocks, whole]

    pairs = paths.map_with_path(bytes_of, shapes, places)
    return sorted(jax.tree.leaves(pairs, is_leaf=lambda x: isinstance(x, list)))


def blocks_of(node: dict) -> int:
    """Count the pairs of layers that are split over `model`, at most; one more for all squeeze-excites."""
    if node["name"] == "resnet":
        return sum(resnet.STAGES[node["depth"]])
    known = {
        "vit": node.get("depth"),
        "vgg": 4,
        "convnext": sum(node.get("depths", ())),
        "googlenet": 18,
        "mobilenet": 11,
    }
    return known.get(node["name"], 0)


def maps_of(model, shapes, batch) -> set[int]:
    """Give the bytes of each map that a network makes of an image; of a ViT's tokens, also with the first."""
    images = jax.ShapeDtypeStruct((BATCH, *batch["image"].shape[1:]), np.float32)
    variables = {"params": shapes.params, "stats": shapes.stats}
    outputs = jax.eval_shape(lambda v, x: model.apply(v, x, train=True, key=jax.random.key(0))[0], variables, images)
    sizes = [leaf.shape for leaf in jax.tree.leaves(outputs) if len(leaf.shape) == 4]
    more = [(BATCH, 1 + rows * columns, width) for _, rows, columns, width in sizes if "class_token" in shapes.params]
    return {8 * math.prod(size[1:]) for size in (*sizes, *more)}


def together(mesh) -> set[int]:
    """Give the numbers of images that a gather along an axis could bring together."""
    others = {"data": "fsdp", "fsdp": "data"}
    counts = {BATCH // mesh.shape[other] for axis, other in others.items() if mesh.shape[axis] > 1} | {BATCH}
    return counts | ({count // 4 for count in counts} if mesh.shape["pipe"] > 1 else set())


def answered(task, wanted, state, batch, mesh) -> float:
    """Give how far answers differ, to a batch that does not divide into micro-batches; parameters from the mesh.

    Args:
      wanted: one device's answers to the whole batch.
    """
    count = shard.ways(mesh) * (3 if 3 * shard.ways(mesh) <= BATCH else 1)
    few = {key: value[:count] for key, value in batch.items()}
    wanted = jax.tree.map(lambda leaf: leaf[:count], wanted)
    variables = evaluate.place({"params": state.params, "stats": state.stats}, mesh)
    answer = shard.within(mesh, evaluate.make_answer(task))
    found = answer(variables, jax.device_put(few, shard.batch_sharding(mesh, count)))
    return difference(wanted, jax.device_get(found))


def task_of(name: str):
    """Make a model and its task."""
    node = MODELS[name]
    model = parts.make("models", node | {"dtype": "float64"}, classes=10)
    small = {"name": "two_stage", "pre_nms_train": 64, "post_nms_train": 32, "samples": 16}
    extra = {"model": model, "classes": tuple("0123456789"), "image_size": (16, 16), "class_counts": None}
    return model, parts.make("tasks", small if name == "detector" else {"name": "classify"}, **extra)


def main() -> None:
    """Run the cases."""
    kept, answers = {}, {}
    for name, sizes, options in json.loads(sys.argv[1]):
        kind, began = MODELS[name]["name"], time.perf_counter()
        model, task = task_of(name)
        rate = 0.05 if kind == "vit" else 0.01
        side = SIDES.get(name) or SIDES.get(kind, 0)
        batches = [detected(seed) if name == "detector" else classified(seed, side) for seed in range(3)]
        own = {key: value for key, value in options.items() if key == "optimizer"}
        plain = PLAIN.get(name, name), str(own)
        if plain not in kept:
            one = shard.make_mesh({"data": 1}, jax.devices()[:1])
            kept[plain] = trained(*task_of(plain[0]), batches, one, rate, own)
            if MODELS[name].get("stacked"):
                end = kept[plain][1]
                variables = {"params": end.params, "stats": end.stats}
                answers[plain] = jax.device_get(evaluate.make_answer(task_of(plain[0])[1])(variables, batches[0]))
        mesh = shard.make_mesh(sizes, jax.devices()[: math.prod(sizes.values())])
        alone = kept[plain]
        scalars, state, compiled, shapes, places, _ = trained(model, task, batches, mesh, rate, options, alone[-1])
        found = collectives.find(compiled.as_text(), mesh)
        maps = maps_of(model, shapes, batches[0]) if name != "detector" else set()
        report = {
            "losses": [difference(one["loss"], other["loss"]) for one, other in zip(alone[0], scalars)],
            "scalars": [difference(*pair) for pair in zip(alone[0], scalars)],
            "gradients": distance(alone[1].opt, state.opt),
            "params": difference(alone[1].params, state.params),
            "average": difference(alone[1].ema, state.ema),
            "followed": followed(places),
            "collectives": sorted((one.kind, one.axes, one.bytes, one.count) for one in found),
            "parameters": sizes_of(shapes.params, places.params),
            "blocks": blocks_of(MODELS[name]),
            "statistics": 8 * sum(leaf.size for leaf in jax.tree.leaves(shapes.stats)),
            "maps": sorted({size * count for size in maps for count in together(mesh)}),
            "map": max(maps, default=0) * (BATCH // shard.ways(mesh)),
            "answers": answered(task, answers[plain], state, batches[0], mesh) if plain in answers else 0.0,
        }
        print(json.dumps(report | {"seconds": time.perf_counter() - began}), flush=True)


if __name__ == "__main__":
    main()

"""Trains tiny tasks on one device and on meshes of 8 forced ones, and prints how far apart they end; a program.

    python tests/parallel/meshes.py '[["vit", {"data": 2, "model": 2, "pipe": 2}, {}]]'

Each case is a task, a mesh and options of make_step. A line of JSON a case: the relative differences of losses and
gradient norms in each of 3 steps, of the gradients' sum (that is momentum) and of the parameters after them; and the
collectives of the compiled step.
"""

import json
import os
import sys

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"

import jax
import numpy as np
import optax

from mapjax import evaluate, parts, shard, train, tree
from mapjax.data import scenes
from mapjax.parallel import tensor
from mapjax.plan import collectives

VIT = {"name": "vit", "width": 32, "depth": 4, "heads": 4, "mlp": 64, "patch": 8, "image_size": 16, "stacked": True}
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
    "vit_flat": {**VIT, "stacked": False},
    "vit_remat": {**VIT, "remat": True},
    "vit_dots": {**VIT, "remat": "dots"},
    "vit_dropped": {**VIT, "stochastic_depth": 0.3},
    "resnet18": {**RESNET, "depth": 18, "width": 0.25},
    "resnet50": {**RESNET, "depth": 50, "width": 0.125},
    "resnet_remat": {**RESNET, "depth": 18, "width": 0.25, "remat": True},
    "detector": DETECTOR,
}
BATCH = 16


def classified(seed: int) -> dict:
    """Give noise with labels, as a batch."""
    rng = np.random.default_rng(seed)
    return {
        "image": rng.integers(0, 256, (BATCH, 16, 16, 3), dtype=np.uint8),
        "label": rng.integers(0, 10, BATCH).astype(np.int32),
        "mask": np.ones(BATCH, bool),
        "index": np.arange(BATCH, dtype=np.int32),
    }


def detected(seed: int) -> dict:
    """Give scenes of digits, as a batch."""
    source = scenes.make(split="train", train_length=8, size=(64, 64), digit_size=(12, 32))
    transform = parts.make("data", {"name": "transforms", "max_boxes": 8, "augment": None}, size=(64, 64))
    rows = [transform(source.records[i], np.random.default_rng(seed)) | {"index": np.int32(i)} for i in range(8)]
    return {key: np.stack([row[key] for row in rows]) for key in rows[0]} | {"mask": np.ones(8, bool)}


def trained(task, batches, mesh, rate: float, options):
    """Train 3 steps of momentum on a mesh: the scalars of each, the end, the compiled step, the parameters' shapes."""
    tx = optax.sgd(rate, momentum=0.9)
    batch = jax.device_put(batches[0], shard.batch_sharding(mesh, len(batches[0]["mask"])))
    shapes = jax.eval_shape(lambda: train.init_state(task, tx, batches[0], seed=0, ema=0.9))
    places = shard.placement(shapes, mesh, tensor.rules(shapes.params))
    shard.require_used(places, mesh)
    state = train.draw_state(lambda batch: train.init_state(task, tx, batch, seed=0, ema=0.9), batch, places)
    split = places.params if mesh.shape["fsdp"] > 1 else None
    step = train.make_step(task, tx, seed=0, ema=0.9, places=split, **options)
    with jax.set_mesh(mesh):
        compiled = jax.jit(step, donate_argnums=0, out_shardings=(places, None)).lower(state, batch).compile()
    scalars = []
    for batch in batches:
        placed = jax.device_put(batch, shard.batch_sharding(mesh, len(batch["mask"])))
        state, found = jax.block_until_ready(compiled(state, placed))
        scalars.append(jax.device_get(found))
    return scalars, jax.device_get(state), compiled, shapes.params


def difference(wanted, found) -> float:
    """Give the largest difference of any leaf, relative to the largest number of that leaf."""
    pairs = zip(jax.tree.leaves(wanted), jax.tree.leaves(found))
    return max(float(np.abs(a - b).max() / (np.abs(a).max() + 1e-3)) for a, b in pairs)


def distance(wanted, found) -> float:
    """Give the length of the difference of all leaves together, relative to that of the wanted ones."""
    flat = [np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(one)]).astype(float) for one in (wanted, found)]
    return float(np.linalg.norm(flat[0] - flat[1]) / np.linalg.norm(flat[0]))


def largest(shapes) -> int:
    """Give the bytes of the largest parameter; of a stack, those of one block."""
    sizes = tree.map_with_path(lambda path, s: s.size // (s.shape[0] if shard.STACK in path else 1), shapes)
    return 4 * max(jax.tree.leaves(sizes))


def answered(task, alone, state, batch, mesh) -> float:
    """Give how far answers differ, to a batch that does not divide into micro-batches; parameters from the mesh."""
    count = shard.ways(mesh) * (3 if 3 * shard.ways(mesh) <= BATCH else 1)
    few = {key: value[:count] for key, value in batch.items()}
    wanted = evaluate.make_answer(task)({"params": alone.params, "stats": alone.stats}, few)
    variables = evaluate.place({"params": state.params, "stats": state.stats}, mesh)
    answer = shard.within(mesh, evaluate.make_answer(task))
    found = answer(variables, jax.device_put(few, shard.batch_sharding(mesh, count)))
    return difference(jax.device_get(wanted), jax.device_get(found))


def main() -> None:
    """Run the cases."""
    kept = {}
    for name, sizes, options in json.loads(sys.argv[1]):
        node = MODELS[name]
        detecting = node["name"] == "faster_rcnn"
        model = parts.make("models", node, classes=10)
        kind = {"name": "detect", "pre_nms_train": 64, "post_nms_train": 32, "samples": 16} if detecting else {}
        # Small steps where rounding may change which proposals are drawn, or which side of a ReLU a value is on.
        rate = 0.05 if node["name"] == "vit" else 1e-4
        extra = {"model": model, "classes": tuple("0123456789"), "image_size": (16, 16), "class_counts": None}
        task = parts.make("tasks", kind or {"name": "classify"}, **extra)
        batches = [(detected if detecting else classified)(seed) for seed in range(3)]
        if name not in kept:
            kept[name] = trained(task, batches, shard.make_mesh({"data": 1}, jax.devices()[:1]), rate, {})
        mesh = shard.make_mesh(sizes)
        scalars, state, compiled, shapes = trained(task, batches, mesh, rate, options)
        found = collectives.find(compiled.as_text(), mesh)
        alone = kept[name]
        report = {
            "losses": [difference(one["loss"], other["loss"]) for one, other in zip(alone[0], scalars)],
            "scalars": [difference(*pair) for pair in zip(alone[0], scalars)],
            "gradients": distance(alone[1].opt, state.opt),
            "params": difference(alone[1].params, state.params),
            "collectives": sorted({(one.kind, one.axes, one.bytes) for one in found}),
            "largest_parameter": largest(shapes),
            "answers": answered(task, alone[1], state, batches[0], mesh) if node["name"] == "vit" else 0.0,
        }
        print(json.dumps(report), flush=True)


if __name__ == "__main__":
    main()

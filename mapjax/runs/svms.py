"""Class SVMs for a trained R-CNN, of the split that it learned from: tasks/detection/class_svms.py says how."""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np

from mapjax.data import pipeline
from mapjax.engine import evaluate
from mapjax.ops import images as image_ops
from mapjax.runs import evaluation, networks, sources
from mapjax.runs.trained import Loaded
from mapjax.runtime import log
from mapjax.sharding import mesh as shard
from mapjax.task import Batch, Variables
from mapjax.tasks.detection import class_svms, frames


def answering(loaded: Loaded, console: log.Log) -> Loaded:
    """Give what is to answer: with SVMs where `task.scores` asks for them, else as it is."""
    return with_svms(loaded, console) if loaded.config.task.get("scores") == "svm" else loaded


def with_svms(loaded: Loaded, console: log.Log) -> Loaded:
    """Fit SVMs to the features of a run's training split, and put them in place of its softmax.

    All features are in memory: 4 bytes × their width × boxes of an image × images.

    Raises:
      UserError: another network, or its data is not there.
    """
    config: Any = loaded.config
    class_svms.require(networks.make_model(config, len(loaded.classes)))
    _, train, _ = sources.open_sources(config)
    mesh = shard.make_mesh({"data": -1})
    size, sharding = evaluation.eval_batch(config, mesh)
    transform = sources.make_transform(config, augment=False)
    variables = evaluate.place(loaded.variables, mesh)
    with pipeline.eval_batches(train, transform, batch=size, sharding=sharding) as batches:
        tracked = console.track(batches, "features of boxes", -(-len(train.records) // size))
        vectors, role = collect(loaded, variables, tracked)
    weights, offsets = class_svms.fit(vectors, role)
    console.say(f"class SVMs: fitted to {len(vectors):,} boxes of {len(train.records):,} images")
    return loaded._replace(variables=class_svms.installed(loaded.variables, weights, offsets))


def collect(loaded: Loaded, variables: Variables, batches: Iterable[Batch]) -> tuple[np.ndarray, np.ndarray]:
    """Give the features (n d) of true boxes and proposals, and what each is to each class (n c)."""
    classes, see = len(loaded.classes), _make_see(loaded)
    found: list[tuple[np.ndarray, np.ndarray]] = []
    for batch in batches:
        both = evaluate.local({"vectors": see(variables, batch)})["vectors"].astype(np.float32)
        batch = evaluate.local(batch)
        for row in np.flatnonzero(batch["mask"]):
            valid = batch["valid"][row]
            known, real = valid & ~batch["crowd"][row], batch["proposals_valid"][row]
            numbers = batch["classes"][row]
            objects = class_svms.OBJECT * np.eye(classes, dtype=np.int8)[numbers[known]]
            boxes = batch["proposals"][row][real]
            role = class_svms.roles(boxes, batch["boxes"][row][valid], numbers[valid], classes)
            of_truth, of_proposals = np.split(both[row], [len(valid)])
            found.append((np.concatenate([of_truth[known], of_proposals[real]]), np.concatenate([objects, role])))
    vectors, role = (np.concatenate(part) for part in zip(*found))
    return vectors, role


def _make_see(loaded: Loaded) -> Callable[[Variables, Batch], Any]:
    """Make the jit (variables, batch) → features (b n d) of the true boxes, then of the proposals."""
    model = networks.make_model(loaded.config, len(loaded.classes))

    @jax.jit
    def see(variables: Variables, batch: Batch):
        images = frames.pad(image_ops.normalized(batch["image"], loaded.task.normalize))
        outputs, _ = model.apply(variables, images, train=False, key=None)
        boxes = jax.numpy.concatenate([batch["boxes"], batch["proposals"]], 1)
        return model.calls["vectors"](variables, outputs["features"], boxes)

    return see

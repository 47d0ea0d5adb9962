"""How much a layer knows: its features, reduced by PCA, given to classical classifiers.

images → features of a named layer → PCA → linear probe, k-NN, SVM, decision tree, naive Bayes
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Float, Int
from rich.table import Table
from rich.text import Text
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier

from mapjax.data import labels
from mapjax.engine import evaluate
from mapjax.errors import UserError, near
from mapjax.explain import pca
from mapjax.sharding import mesh as shard
from mapjax.task import Batch, Task, Variables

MOST_FOR_SVM = 10_000  # examples
PIXELS = "pixels"  # the layer before the first: the baseline


class Features(NamedTuple):
    """Features of the real images of a split, and their labels."""

    values: Float[np.ndarray, "n d"]
    labels: Int[np.ndarray, "n"]


class Score(NamedTuple):
    """Accuracy of a classifier on the held-out features, and the seconds it took to fit and answer."""

    name: str
    accuracy: float
    seconds: float


def layers(task: Task, variables: Variables, batch: Batch) -> dict[str, tuple[int, ...]]:
    """List the layers whose features the network shows, with the shape for one image."""
    shown = jax.eval_shape(task.predict, variables, batch, jax.random.key(0))
    named = {**shown.get("features", {}), "logits": shown.get("logits")}
    found = {name: tuple(value.shape[1:]) for name, value in named.items() if hasattr(value, "shape")}
    return {PIXELS: tuple(batch["image"].shape[1:]), **found}


def make_features(task: Task, layer: str, known: Mapping[str, Any]) -> Callable[[Variables, Batch], Any]:
    """Make the jit (variables, batch) → features (b d) of a layer; a map is averaged over its places.

    Args:
      known: what `layers` lists.

    Raises:
      UserError: no such layer.
    """
    if layer not in known:
        raise UserError(f"--layer {layer}: the network shows no such layer.{near(layer, known)}")

    def features(variables: Variables, batch: Batch):
        if layer == PIXELS:
            return batch["image"].reshape(len(batch["image"]), -1).astype(jnp.float32) / 255
        shown = task.predict(variables, batch, jax.random.key(0))
        value = shown["logits"] if layer == "logits" else shown["features"][layer]
        value = value.astype(jnp.float32)
        return value.mean(tuple(range(1, value.ndim - 1))) if value.ndim > 2 else value

    return jax.jit(features)


def collect(features: Callable[..., Any], variables: Variables, batches: Iterable[Batch]) -> Features:
    """Bring the features and labels of all real images to the host.

    Raises:
      UserError: the images have several labels each.
    """
    values, classes = [], []
    for batch in batches:
        if labels.of_image(batch) != "label":
            raise UserError("a probe tells one class an image from another, and these images have several labels each.")
        found = evaluate.local({"found": features(variables, batch), "label": batch["label"], "mask": batch["mask"]})
        values.append(found["found"][found["mask"]])
        classes.append(found["label"][found["mask"]])
    return Features(np.concatenate(values), np.concatenate(classes))


def reduced(train: Features, held_out: Features, count: int, mesh: Mesh) -> tuple[Features, Features, float]:
    """Replace features by `count` principal components, fitted on `train` over the mesh.

    Returns:
      Both splits, and the share of the variance that the components hold.
    """
    mapping = pca.fit(in_chunks(train.values, mesh), count)
    one, other = (split._replace(values=np.asarray(mapping.transform(split.values))) for split in (train, held_out))
    return one, other, float(mapping.variance.sum() / mapping.total_variance)


def classifiers(seed: int = 0) -> dict[str, Any]:
    """Make the classifiers, by name; those that look at distances see features of equal scale."""
    return {
        "linear probe": make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000)),
        "k-NN (5)": make_pipeline(StandardScaler(), KNeighborsClassifier(5)),
        "SVM (RBF)": make_pipeline(StandardScaler(), SVC()),
        "decision tree": DecisionTreeClassifier(random_state=seed),
        "naive Bayes": GaussianNB(),
    }


def compare(train: Features, held_out: Features, seed: int = 0) -> list[Score]:
    """Fit every classifier on one split's features (the SVM on 10,000 of them at most), and score it on the other's."""
    scores = []
    shuffled = np.random.default_rng(seed).permutation(len(train.labels))
    for name, classifier in classifiers(seed).items():
        began = time.perf_counter()
        # An SVM's time grows with the square of the examples.
        rows = shuffled[:MOST_FOR_SVM] if name.startswith("SVM") else shuffled
        classifier.fit(train.values[rows], train.labels[rows])
        right = classifier.predict(held_out.values) == held_out.labels
        scores.append(Score(name, float(np.mean(right)), time.perf_counter() - began))
    return scores


def table(layer: str, scores: Sequence[Score], seen: int, held_out: int) -> Table:
    """Lay out the scores for a terminal."""
    title = Text(f"{layer}: fitted on {seen:,} images, scored on {held_out:,}")
    sheet = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for name, justify in (("classifier", "left"), ("accuracy", "right"), ("seconds", "right")):
        sheet.add_column(name, justify=justify, min_width=8)  # pyright: ignore[reportArgumentType]
    for score in scores:
        sheet.add_row(score.name, f"{100 * score.accuracy:.2f} %", f"{score.seconds:.1f}")
    return sheet


def in_chunks(values: np.ndarray, mesh: Mesh, size: int = 4096) -> Callable[[], Iterator[Any]]:
    """Give an array in parts of at most `size` rows, as often as asked, spread over the mesh where they fit."""
    ways = mesh.shape["data"] * mesh.shape["fsdp"]
    spread, whole = NamedSharding(mesh, shard.BATCH), NamedSharding(mesh, PartitionSpec())

    def parts() -> Iterator[Any]:
        for start in range(0, len(values), size):
            part = values[start : start + size]
            yield jax.device_put(part, whole if len(part) % ways else spread)

    return parts

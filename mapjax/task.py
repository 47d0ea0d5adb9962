"""The types that every network, task and metric is made of: small tuples of pure functions.

    Model    image → raw outputs                 (knows nothing of the truth)
    Task     batch → loss, prediction, result      (composes models with matching, losses and decoding)
    Metric   result → counts → scalars             (a monoid: counts of two halves merge)
    State    everything that training changes

`evaluate = summarize ∘ fold(merge) ∘ measure ∘ decode ∘ predict`, whatever the task.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from jaxtyping import Array, Int, PyTree

Params = PyTree
Stats = PyTree
Variables = dict[str, Any]  # {"params": Params, "stats": Stats}; "stats" is {} for a network without any
Batch = dict[str, Any]  # see stages.py for the keys of these four
Prediction = dict[str, Any]
Result = dict[str, Any]
Scalars = dict[str, Any]
Counts = Any
DETECTION = ("boxes", "scores", "classes", "valid")  # keys of the Result of a detector of boxes


class Model(NamedTuple):
    """A network.

    init(key, images) -> Variables
    apply(variables, images, *, train, key) -> (Prediction, Stats); `images` are normalised floats (b h w 3);
      `stats` come back unchanged when `train` is False.
    calls: its further mappings by name, function(variables, …): a detector's "regions", say.
    levels: feature name -> stride, finest first: what a pyramid or a decoder may stand on.
    heads: expressions (re.search) of the paths of parameters whose size depends on the classes, with all that goes with
      them: what a network of other classes has of its own.
    rules: (expression, PartitionSpec) in order: how its parameters are split over the axis `model`, and `pipe`.

    Example:
      >>> import jax.numpy as jnp
      >>> import mapjax
      >>> def apply(variables, images, *, train, key):
      ...     return {"logits": images.mean((1, 2))}, variables["stats"]
      >>> colours = mapjax.Model(lambda key, images: {"params": {}, "stats": {}}, apply)
      >>> outputs, _ = colours.apply(colours.init(None, None), jnp.ones((2, 8, 8, 3)), train=False, key=None)
      >>> outputs["logits"].shape
      (2, 3)
    """

    init: Callable[..., Variables]
    apply: Callable[..., tuple[Prediction, Stats]]
    calls: Mapping[str, Callable[..., Any]] = {}
    levels: Mapping[str, int] = {}
    heads: tuple[str, ...] = ()
    rules: Sequence[tuple[str, Any]] = ()


class Context(NamedTuple):
    """What a loss may know besides its variables and its batch.

    key: of this step.
    step: its number, from 0.
    progress: the share of training that is over, 0 to 1.
    ema: the averaged parameters, None where none are kept; a teacher without further ado.

    Example:
      >>> import mapjax
      >>> mapjax.Context(key=None, step=50, progress=0.5).progress
      0.5
    """

    key: Any
    step: Any = 0
    progress: Any = 0.0
    ema: PyTree | None = None


class Metric(NamedTuple):
    """A measure of results, as a monoid: merge is associative, so any split over devices and processes agrees.

    measure(result, batch) -> counts: on the host (numpy); rows with `mask` False do not count.
    merge(counts, counts) -> counts
    summarize(counts) -> {name: float}, by the field's names ("AP", "AP50/RBC", "top1").
    files(counts) -> {file name: JSON}, what a run's folder holds of its answers ("predictions.json").
    best: the scalar by which checkpoints are ranked; higher is better.
    score(result, batch) -> what `measure` takes in place of the result: compared with the truth on the device, in the
      jit that answered. None: `measure` takes the result itself.

    Example:
      >>> import mapjax
      >>> metric = mapjax.Metric(
      ...     measure=lambda result, batch: (int(batch["mask"].sum()),),
      ...     merge=lambda one, other: (one[0] + other[0],),
      ...     summarize=lambda counts: {"images": float(counts[0])},
      ...     files=lambda counts: {},
      ...     best="images",
      ... )
      >>> metric.summarize(metric.merge((3,), (4,)))
      {'images': 7.0}
    """

    measure: Callable[[Any, Batch], Counts]
    merge: Callable[[Counts, Counts], Counts]
    summarize: Callable[[Counts], dict[str, float]]
    files: Callable[[Counts], dict[str, Any]]
    best: str
    score: Callable[[Result, Batch], Any] | None = None


class Task(NamedTuple):
    """What a network is trained and judged for.

    needs: the kind of label that it learns from: "boxes", "label", "label_map" … of data/labels.py, "" for nothing.
    normalize(image) -> images uint8 as the network's floats; differentiable where it is given floats of 0 to 255.
    init(key, batch) -> Variables
    loss(variables, batch, context) -> (scalar, (Stats, scalars)): `scalars` holds each term of the loss by name.
    predict(variables, batch, key) -> Prediction: what the network says, and nothing that is chosen from it.
    decode(prediction, batch) -> Result, in pixels of the original images; it never sees the truth.
    metrics: the names of its metrics, parts of mapjax.metrics; the first one ranks checkpoints.

    The batch's "image" may be uint8, or floats that `normalize` has given: so gradients reach the pixels.

    Example:
      >>> from mapjax.config import parts
      >>> model = parts.make("models", {"name": "tiny", "width": 4}, classes=2, dtype="float32")
      >>> offered = {"model": model, "classes": ("cat", "dog"), "image_size": (8, 8)}
      >>> task = parts.make("tasks", {"name": "classify"}, **offered)
      >>> task.needs, task.metrics
      ('label', ('classification',))
    """

    needs: str
    normalize: Callable[[Any], Any]
    init: Callable[[Any, Batch], Variables]
    loss: Callable[[Variables, Batch, Context], tuple[Any, tuple[Stats, Scalars]]]
    predict: Callable[[Variables, Batch, Any], Prediction]
    decode: Callable[[Prediction, Batch], Result]
    metrics: tuple[str, ...]


class State(NamedTuple):
    """All that a train step changes; donated to it and returned by it.

    Example:
      >>> import jax.numpy as jnp
      >>> from mapjax import task
      >>> int(task.State(jnp.array(3), params={}, stats={}, opt=(), ema=None).step)
      3
    """

    step: Int[Array, ""]
    params: Params
    stats: Stats
    opt: PyTree
    ema: PyTree | None

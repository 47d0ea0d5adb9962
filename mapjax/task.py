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
    """

    init: Callable[..., Variables]
    apply: Callable[..., tuple[Prediction, Stats]]
    calls: Mapping[str, Callable[..., Any]] = {}
    levels: Mapping[str, int] = {}
    heads: tuple[str, ...] = ()
    rules: Sequence[tuple[str, Any]] = ()


class Context(NamedTuple):
    """What a loss may know besides its variables and its batch.

    key: of this step. step: its number, from 0. progress: the share of training that is over, 0 to 1.
    ema: the averaged parameters, None where none are kept; a teacher without further ado.
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
    """

    measure: Callable[[Result, Batch], Counts]
    merge: Callable[[Counts, Counts], Counts]
    summarize: Callable[[Counts], dict[str, float]]
    files: Callable[[Counts], dict[str, Any]]
    best: str


class Task(NamedTuple):
    """What a network is trained and judged for.

    init(key, batch) -> Variables
    loss(variables, batch, key) -> (scalar, (Stats, scalars)): `scalars` holds each term of the loss by name.
    predict(variables, batch) -> Prediction
    decode(prediction, batch) -> Result, in pixels of the original images
    metric(source) -> Metric against the truth of that source
    sections(source, counts, metrics) -> the task's sections of the report (mapjax.report)
    show(result row, image, *, classes, score, enlarge) -> Shown: the answer to one image, as values and as a drawing
    """

    init: Callable[[Any, Batch], Variables]
    loss: Callable[[Variables, Batch, Any], tuple[Any, tuple[Stats, Scalars]]]
    predict: Callable[[Variables, Batch], Prediction]
    decode: Callable[[Prediction, Batch], Result]
    metric: Callable[..., Metric]
    sections: Callable[..., Sequence[Any]]
    show: Callable[..., Any]


class State(NamedTuple):
    """All that a train step changes; donated to it and returned by it."""

    step: Int[Array, ""]
    params: Params
    stats: Stats
    opt: PyTree
    ema: PyTree | None

"""Semantic segmentation: an image becomes a class for every pixel."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mapjax.errors import UserError, near
from mapjax.ops import images as image_ops
from mapjax.ops import imbalance, pixel_losses, windows
from mapjax.ops.images import MEAN, STD
from mapjax.ops.resize import bilinear
from mapjax.stages import VOID
from mapjax.task import Batch, Context, Model, Prediction, Result, Task, Variables

WEIGHTINGS = ("none", "median", "inverse", "sqrt")
OPTIONS = dict.fromkeys(("losses", "auxiliary_losses"), dict.fromkeys(pixel_losses.LOSSES, 0.0))
PixelCounts = tuple[np.ndarray, np.ndarray]


def make(
    *,
    model: Model,
    classes: Sequence[str],
    image_size: tuple[int, int],
    pixel_counts: Callable[[], PixelCounts] | None = None,
    losses: Mapping[str, float] | None = None,
    weighting: str = "none",
    heaviest: float = 5.0,
    auxiliary: float = 0.4,
    auxiliary_losses: Mapping[str, float] | None = None,
    flip: bool = False,
    scales: Sequence[float] = (1.0,),
    window: Sequence[int] = (),
    overlap: float = 0.25,
    mean: Sequence[float | int] = MEAN,
    std: Sequence[float | int] = STD,
) -> Task:
    """Make the task of semantic segmentation.

    Args:
      model: its outputs hold "map_logits" (b i j c) at any stride; others whose names begin with "aux" and end with
        "map_logits" are trained as well.
      classes: their names.
      image_size: height, width of its input in training.
      pixel_counts: gives the training pixels of each class, and those of the images that have it, for `weighting`.
      losses: their factors by name: cross_entropy (1 by default), focal, ohem, dice, lovasz (ops/pixel_losses.py).
      weighting: of the classes: "none"; "median" (median frequency: Eigen & Fergus 2015); "inverse" or "sqrt" of
        ops/imbalance.py.
      heaviest: the largest weight there may be.
      auxiliary: factor of the losses of auxiliary heads.
      auxiliary_losses: these, where they are others than `losses`.
      flip: in evaluation the probabilities are averaged over the image and the mirrored one.
      scales: in evaluation they are averaged over the image in these sizes.
      window: height, width of windows that slide over the image in evaluation, whose scores are averaged; () takes the
        image whole.
      overlap: of neighbouring windows, at least this share of a side.
      mean, std: of the images, RGB, 0 to 1.

    Raises:
      UserError: an unknown loss or weighting, or views that cannot be.

    Example:
      >>> from mapjax.models.segmenters import unet
      >>> from mapjax.tasks import segment
      >>> model = unet.make(depth=2, width=4, classes=2)
      >>> task = segment.make(model=model, classes=("sky", "sea"), image_size=(8, 8), losses={"dice": 1.0})
      >>> task.needs, task.metrics
      ('label_map', ('iou',))
    """
    factors = _factors(losses)
    beside = factors if auxiliary_losses is None else _factors(auxiliary_losses, "auxiliary_losses")
    _require_views(scales, window, overlap)
    if weighting not in WEIGHTINGS:
        raise UserError(f"task.weighting={weighting!r} is not known.{near(weighting, WEIGHTINGS)}")
    shares = np.ones(len(classes), np.float32)
    if pixel_counts is not None and weighting != "none":
        shares = class_weights(pixel_counts(), weighting, heaviest)

    normalize = partial(image_ops.normalize, mean=mean, std=std)

    def init(key, batch: Batch) -> Variables:
        return model.init(key, image_ops.normalized(batch["image"], normalize))

    def loss(variables: Variables, batch: Batch, context: Context):
        if pixel_counts is None and weighting != "none":
            raise UserError("task.weighting needs the pixels of the classes to train with.")
        images = image_ops.normalized(batch["image"], normalize)
        outputs, stats = model.apply(variables, images, train=True, key=context.key)
        _require_logits(outputs)
        weights = jnp.asarray(shares)
        labels = jnp.where(batch["mask"][:, None, None], batch["label_map"], VOID)
        terms = {}
        for head in sorted(name for name in outputs if _is_logits(name)):
            logits = bilinear(outputs[head].astype(jnp.float32), labels.shape[1:])
            own = "" if head == "map_logits" else f"{head.removesuffix('_map_logits')}_"
            terms |= {
                f"loss_{own}{name}": (
                    factor * (auxiliary if own else 1.0),
                    pixel_losses.LOSSES[name](logits, labels, weights),
                )
                for name, factor in (beside if own else factors).items()
            }
        total = sum(factor * value for factor, value in terms.values())
        found = _nearest(outputs["map_logits"], labels.shape[1:])
        right, known = (found == labels), labels != VOID
        scalars = {"loss": total, "train_accuracy": (right & known).sum() / jnp.maximum(known.sum(), 1)}
        scalars |= {name: value for name, (_, value) in terms.items() if len(terms) > 1}
        return total, (stats, scalars)

    def predict(variables: Variables, batch: Batch, key) -> Prediction:
        del key
        images = image_ops.normalized(batch["image"], normalize)
        answer = _answering(model, variables, window, overlap)
        if not flip and tuple(scales) == (1.0,):
            logits, features = answer(images)
            return {"map_logits": logits, "features": features}
        frame = images.shape[1:3]
        views = []
        for scale in scales:
            seen = images if scale == 1 else bilinear(images, tuple(round(side * scale) for side in frame))
            for mirrored in (False, True) if flip else (False,):
                logits = answer(seen[:, :, ::-1] if mirrored else seen)[0]
                views.append(jax.nn.softmax(bilinear(logits[:, :, ::-1] if mirrored else logits, frame)))
        return {"map_logits": jnp.log(jnp.maximum(sum(views) / len(views), 1e-30)), "features": {}}

    def decode(prediction: Prediction, batch: Batch) -> Result:
        """Scores as the network gives them, and the way to them from the original pixels, where they are sampled."""
        logits = prediction["map_logits"].astype(jnp.float32)
        (height, width), (rows, columns) = batch["image"].shape[1:3], logits.shape[1:3]
        onto = np.array([[columns / width], [rows / height], [1]], np.float32)
        return {"map_logits": logits, "matrix": onto * batch["matrix"]}

    return Task("label_map", normalize, init, loss, predict, decode, ("iou",))


def class_weights(counts: PixelCounts, weighting: str, heaviest: float = float("inf")) -> np.ndarray:
    """Weights of the classes (c), at most `heaviest`; a class without a pixel in the masks counted weighs the most.

    Args:
      counts: pixels of each class, and all pixels of the images that have it.
      weighting: as for `make`. "median": the median of the classes' frequencies by each one's, where a frequency is
        its share of the pixels of the images that have it.
    """
    pixels, pixels_with = (np.asarray(one, np.float64) for one in counts)
    if weighting != "median":
        counted = np.maximum(pixels, 1)
        return np.minimum(imbalance.class_weights(counted, weighting), heaviest).astype(np.float32)
    seen = pixels > 0
    frequency = np.where(seen, pixels / np.maximum(pixels_with, 1), 1)
    middle = np.median(frequency[seen]) if seen.any() else 1.0
    weights = middle / frequency
    weights[~seen] = weights[seen].max(initial=1.0)
    return np.minimum(weights, heaviest).astype(np.float32)


def slide(answer: Callable[[Any], Any], images, window: tuple[int, int], overlap: float = 0.25) -> Any:
    """Average the scores of windows that slide over images.

    Args:
      answer: images (b p q 3) of the window's size → scores (b i j c) at any stride.
      images: (b h w 3).
      window: p, q; cut to the images' size.
      overlap: of neighbours, at least this share of a side.

    Returns:
      Scores (b h w c).
    """
    frame = images.shape[1:3]
    sides = tuple(min(one, other) for one, other in zip(window, frame))
    tops, lefts = (windows.starts(whole, side, overlap) for whole, side in zip(frame, sides))
    places = jnp.array([(top, left) for top in tops for left in lefts], jnp.int32)

    def look(place):
        seen = jax.lax.dynamic_slice(images, (0, place[0], place[1], 0), (len(images), *sides, images.shape[-1]))
        return bilinear(answer(seen), sides)

    def add(carry, place):
        total, number = carry
        start = (0, place[0], place[1], 0)
        found = look(place)
        both = (
            (total, jax.lax.dynamic_slice(total, start, found.shape) + found),
            (number, jax.lax.dynamic_slice(number, start, (1, *sides, 1)) + 1),
        )
        return tuple(jax.lax.dynamic_update_slice(whole, part, start) for whole, part in both), None

    shape = jax.eval_shape(look, places[0])
    empty = jnp.zeros((len(images), *frame, shape.shape[-1]), shape.dtype), jnp.zeros((1, *frame, 1), shape.dtype)
    (total, number), _ = jax.lax.scan(add, empty, places)
    return total / number


def _answering(model: Model, variables: Variables, window: Sequence[int], overlap: float):
    """Make images → (scores, features by name), with sliding windows if there are any."""

    def whole(images):
        outputs = model.apply(variables, images, train=False, key=None)[0]
        _require_logits(outputs)
        logits = outputs.pop("map_logits")
        maps = {name: value for name, value in outputs.items() if jnp.issubdtype(value.dtype, jnp.floating)}
        return logits, {name: value for name, value in maps.items() if not _is_logits(name)}

    if not window:
        return whole
    size = (int(window[0]), int(window[1]))
    return lambda images: (slide(lambda seen: whole(seen)[0], images, size, overlap), {})


def _require_logits(outputs: Mapping[str, Any]) -> None:
    if "map_logits" not in outputs:
        raise UserError(
            "this network gives no 'map_logits', a class for every pixel; choose one of segmentation for model.name, "
            "such as 'unet'."
        )


def _is_logits(name: str) -> bool:
    return name == "map_logits" or (name.startswith("aux") and name.endswith("map_logits"))


def _nearest(logits, size: Sequence[int]):
    """The classes (b h w) of the nearest places of a coarser map: good enough to watch training by."""
    rows, columns = (np.arange(side) * places // side for side, places in zip(size, logits.shape[1:3]))
    return logits.argmax(-1)[:, rows][:, :, columns]


def _factors(losses: Mapping[str, float] | None, key: str = "losses") -> dict[str, float]:
    given = {name: float(factor) for name, factor in (losses or {"cross_entropy": 1.0}).items()}
    for name, factor in given.items():
        if name not in pixel_losses.LOSSES:
            raise UserError(f"task.{key} has no loss {name!r}.{near(name, pixel_losses.LOSSES)}")
        if factor < 0:
            raise UserError(f"task.{key}.{name}={factor} must not be negative.")
    chosen = {name: factor for name, factor in given.items() if factor}
    if not chosen:
        raise UserError(f"task.{key}={given} leaves nothing to learn from; give one of them a factor above 0.")
    return chosen


def _require_views(scales: Sequence[float], window: Sequence[int], overlap: float) -> None:
    if not scales or min(scales) <= 0:
        raise UserError(f"task.scales={tuple(scales)} must be factors of the image's size, such as (0.75, 1.0, 1.25).")
    if len(window) not in (0, 2) or (window and min(window) < 1):
        raise UserError(f"task.window={tuple(window)} must be height and width in pixels, or () for none.")
    if not 0 <= overlap < 1:
        raise UserError(f"task.overlap={overlap} must be a share from 0 to below 1.")

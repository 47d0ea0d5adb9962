"""Classification: an image becomes a label, or any number of them."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mapjax.data import labels
from mapjax.errors import UserError, near
from mapjax.ops import images as image_ops
from mapjax.ops import imbalance, losses, mix
from mapjax.ops.images import MEAN, STD
from mapjax.task import Batch, Context, Model, Prediction, Result, Task, Variables

LOSSES = ("softmax", "sigmoid")
VIEWS = ("one", "flip", "five", "ten")
CENTRE = 4  # of the windows of "five" and "ten"


def make(
    *,
    model: Model,
    classes: Sequence[str],
    image_size: tuple[int, int],
    class_counts: Callable[[], np.ndarray] | None = None,
    loss: str = "softmax",
    label_smoothing: float = 0.0,
    focal: float = 0.0,
    weighting: str = "none",
    beta: float = 0.999,
    logit_adjustment: float = 0.0,
    mixup: float = 0.0,
    cutmix: float = 0.0,
    mix_probability: float = 1.0,
    auxiliary: float = 0.3,
    views: str = "one",
    mean: Sequence[float | int] = MEAN,
    std: Sequence[float | int] = STD,
) -> Task:
    """Make the classification task.

    Args:
      model: its outputs hold "logits"; others whose names begin with "aux" are trained as well.
      classes: their names.
      image_size: height, width of the network's input in training, and of each view.
      class_counts: gives the training examples of each class, for `weighting` and `logit_adjustment`.
      loss: "softmax" (one class an image) or "sigmoid" (each class for itself; for several labels an image).
      label_smoothing: share of the target spread evenly (Szegedy et al. 2016).
      focal: the exponent γ that makes easy examples count less (Lin et al. 2017); 0 is cross-entropy.
      weighting: of the classes: "none", "inverse", "sqrt" or "effective" (with `beta`), as in ops/imbalance.py.
      logit_adjustment: the factor τ of the classes' log-frequencies in the loss (Menon et al. 2021), 0 or about 1.
      mixup, cutmix: the α of each (0: none), for `mix_probability` of the batches.
      auxiliary: weight of the loss of auxiliary heads (GoogLeNet: 0.3, Inception-v3: 0.4).
      views: of an image in evaluation, their probabilities averaged: "one", "flip" (and mirrored), "five" (corners
        and centre; the config's `eval_size` should be larger than image_size), "ten" (both). The features given are
        those of the image as it is, or of its centre.
      mean, std: of the images, RGB, 0 to 1.

    Raises:
      UserError: an unknown loss, weighting or set of views, or a number that cannot be.

    Example:
      >>> from mapjax.models.backbones import tiny
      >>> from mapjax.tasks import classify
      >>> model = tiny.make(width=4, classes=2)
      >>> task = classify.make(model=model, classes=("cat", "dog"), image_size=(8, 8), label_smoothing=0.1)
      >>> task.needs, task.metrics
      ('label', ('classification',))
    """
    if loss not in LOSSES:
        raise UserError(f"task.loss={loss!r} is not known.{near(loss, LOSSES)}")
    if views not in VIEWS:
        raise UserError(f"task.views={views!r} is not known.{near(views, VIEWS)}")
    if loss == "sigmoid" and logit_adjustment:
        raise UserError("task.logit_adjustment is for task.loss='softmax', where one class excludes the others.")
    shares = {"label_smoothing": label_smoothing, "mix_probability": mix_probability, "beta": beta}
    least = {
        "focal": focal,
        "mixup": mixup,
        "cutmix": cutmix,
        "auxiliary": auxiliary,
        "logit_adjustment": logit_adjustment,
    }
    for key, value in (shares | least).items():
        if not isinstance(value, int | float) or not 0 <= value <= (1 if key in shares else math.inf):
            raise UserError(f"task.{key}={value!r} must be {'from 0 to 1' if key in shares else 'at least 0'}.")
    counts = class_counts() if class_counts and (weighting != "none" or logit_adjustment) else None
    criterion = _criterion(loss, counts, len(classes), label_smoothing, focal, weighting, beta, logit_adjustment)

    normalize = partial(image_ops.normalize, mean=mean, std=std)

    def init(key, batch: Batch) -> Variables:
        return model.init(key, image_ops.normalized(batch["image"], normalize))

    def loss_of(variables: Variables, batch: Batch, context: Context):
        for_mix, for_model = jax.random.split(context.key)
        given = targets(batch, len(classes), loss)
        images = image_ops.normalized(batch["image"], normalize)
        options = {"mixup": mixup, "cutmix": cutmix, "probability": mix_probability}
        images, wanted = mix.mix(for_mix, images, given, **options)
        outputs, stats = model.apply(variables, images, train=True, key=for_model)
        count = jnp.maximum(batch["mask"].sum(), 1)
        terms = {
            name: losses.masked_sum(criterion(outputs[name], wanted), batch["mask"]) / count
            for name in sorted(outputs)
            if name == "logits" or name.startswith("aux")
        }
        total = terms["logits"] + auxiliary * sum(value for name, value in terms.items() if name != "logits")
        right = jnp.take_along_axis(wanted, outputs["logits"].argmax(-1)[:, None], 1)[:, 0]
        scalars = {"loss": total, "train_accuracy": losses.masked_sum(right, batch["mask"]) / count}
        scalars |= {f"loss_{name}": value for name, value in terms.items() if len(terms) > 1}
        return total, (stats, scalars)

    def predict(variables: Variables, batch: Batch, key) -> Prediction:
        del key
        cut = views_of(batch["image"], views, image_size)
        seen = [image_ops.normalized(view, normalize) for view in cut]
        outputs = [model.apply(variables, images, train=False, key=None)[0] for images in seen]
        logits = [one.pop("logits") for one in outputs]
        shown = CENTRE if views in ("five", "ten") else 0
        return {"logits": _mean_logits(logits, loss) if len(logits) > 1 else logits[0], "features": outputs[shown]}

    def decode(prediction: Prediction, batch: Batch) -> Result:
        del batch
        return {"probabilities": _probabilities(prediction["logits"], loss)}

    return Task("label", normalize, init, loss_of, predict, decode, ("classification",))


def targets(batch: Batch, classes: int, loss: str):
    """The share of each class in each image (b c): one-hot, or the given labels.

    Raises:
      UserError: images with several labels, under a loss for one.
    """
    if not labels.has(batch, "labels"):
        return jax.nn.one_hot(batch["label"], classes)
    if loss == "softmax":
        raise UserError("the images have several labels, and task.loss='softmax' is for one; set it to 'sigmoid'.")
    return batch["labels"].astype(jnp.float32)


def views_of(images, views: str, size: tuple[int, int]) -> list[Any]:
    """Give the views (b i j 3) of images (b h w 3): "five" are windows of `size` in the corners and the centre."""
    found = [images]
    if views in ("five", "ten"):
        height, width = size
        if height >= images.shape[1] or width >= images.shape[2]:
            raise UserError(f"task.views={views!r} cuts windows of {height}×{width}: set eval_size to more than that.")
        down, right = images.shape[1] - height, images.shape[2] - width
        starts = ((0, 0), (0, right), (down, 0), (down, right), (down // 2, right // 2))
        found = [images[:, top : top + height, left : left + width] for top, left in starts]
    if views in ("flip", "ten"):
        found += [view[:, :, ::-1] for view in found]
    return found


class _Options(NamedTuple):
    """What shapes the loss of one image; `weights` (c) and `shift` (c) are constants."""

    smoothing: float
    focal: float
    weights: np.ndarray
    shift: np.ndarray


def _criterion(
    loss: str,
    counts: np.ndarray | None,
    classes: int,
    smoothing: float,
    focal: float,
    weighting: str,
    beta: float,
    adjustment: float,
) -> Callable[..., Any]:
    """Make the loss (logits b c, targets b c) → b."""
    known = np.ones(classes) if counts is None else counts
    weights = imbalance.class_weights(known, weighting, beta)
    shift = np.float32(adjustment) * imbalance.log_prior(known)
    options = _Options(smoothing, focal, weights, shift)
    form = _softmax_loss if loss == "softmax" else _sigmoid_loss

    def criterion(logits, wanted):
        if counts is None and (weighting != "none" or adjustment):
            raise UserError("task.weighting and task.logit_adjustment need the counts of the classes to train with.")
        return form(logits + options.shift if adjustment else logits, wanted, options)

    return criterion


def _softmax_loss(logits, wanted, options: _Options):
    wanted = wanted * (1 - options.smoothing) + options.smoothing / wanted.shape[-1]
    chance = jax.nn.log_softmax(logits)
    hardness = losses.modulated(-jnp.expm1(chance), options.focal) if options.focal else 1.0
    return -(options.weights * wanted * hardness * chance).sum(-1)


def _sigmoid_loss(logits, wanted, options: _Options):
    smooth = wanted * (1 - options.smoothing) + options.smoothing / 2
    each = losses.binary_cross_entropy(logits, smooth)
    if options.focal:
        chance = jax.nn.sigmoid(logits)
        each *= losses.modulated(jnp.abs(wanted - chance), options.focal)
    return (each * jnp.where(wanted > 0, options.weights, 1)).sum(-1)


def _probabilities(logits, loss: str):
    return jax.nn.softmax(logits) if loss == "softmax" else jax.nn.sigmoid(logits)


def _mean_logits(views: Sequence[Any], loss: str):
    """Logits whose probabilities are the mean of those of the views."""
    mean = jnp.mean(jnp.stack([_probabilities(logits, loss) for logits in views]), 0)
    mean = jnp.clip(mean, 1e-30, 1)
    return jnp.log(mean) if loss == "softmax" else jnp.log(mean) - jnp.log1p(-jnp.minimum(mean, 1 - 1e-7))

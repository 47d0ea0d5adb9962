"""Dense object detection: every site of a grid answers. What is trained, predicted and shown.

Sites (anchors, or squares around points), an assignment of the truth to them, a code of boxes and losses are arguments,
so that RetinaNet, FCOS, SSD, YOLOX and YOLO are one task. All lists have fixed lengths with a `valid` mask. Masks of
objects are a branch (masks_of_sites.py).
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mapjax.errors import UserError, near
from mapjax.ops import images as image_ops
from mapjax.ops.assignment import ASSIGNMENTS
from mapjax.ops.box_codes import CODES
from mapjax.ops.matching import IGNORED
from mapjax.sharding import mesh as shard
from mapjax.task import DETECTION, Batch, Context, Model, Prediction, Result, Task, Variables
from mapjax.tasks.detection import answers, augmented, frames, masks_of_sites
from mapjax.tasks.detection import suppression as suppressing
from mapjax.tasks.detection.beside import left_out
from mapjax.tasks.detection.site_losses import BOX_LOSSES, CLASS_LOSSES, QUALITIES

SHARES = ("image", "batch", "quality")  # whose objects losses are divided by
LISTS = ("level", "class")
GRADED = ("sim_ota", "task_aligned")  # assignments that tell how good the answer of a matched site is
Node = str | Mapping[str, Any]


def make(
    *,
    model: Model,
    assignment: Node = "iou",
    code: Node = "offsets",
    class_loss: Node = "focal",
    box_loss: Node = "l1",
    box_factor: float | int = 1.0,
    quality: Node | None = None,
    divided_by: str = "image",
    score_threshold: float | int = 0.05,
    candidates: int = 1000,
    candidates_of: str = "level",
    best_class: bool = False,
    suppression: float | int | None = 0.5,
    soft: str | None = None,
    sigma: float | int = 0.5,
    agnostic: bool = False,
    detections: int = 300,
    flip: bool = False,
    scales: Sequence[float | int] = (1.0,),
    single: Node | None = None,
    beside: Sequence[str] = (),
    mask_samples: int = 32,
    mask_cells: int = 28,
    mask_factor: float | int = 1.0,
    divisor: int | None = None,
    mean: Sequence[float | int] = image_ops.MEAN,
    std: Sequence[float | int] = image_ops.STD,
) -> Task:
    """Make the task of dense detection; the defaults are those of torchvision's RetinaNet.

    Parts are names, or nodes of a name and its options, as {"name": "iou", "high": 0.5, "low": 0.4}.

    Args:
      model: its outputs hold "site_logits" (b r c), "site_deltas" (b r 4) and perhaps "site_quality" (b r), of all
        sites by level, row, column and anchor; its call "sites" (height, width of the padded input) gives one array
        (r_l 4) a level.
      assignment: of objects to sites, of ops/assignment.py: iou, best_iou, centre, sim_ota, task_aligned.
      code: of boxes, of ops/box_codes.py: offsets, distances, corner.
      class_loss: of site_losses.py: focal (each class by itself), softmax (with background, and hard negatives), bce
        (with the quality that the last two assignments give).
      box_loss: of site_losses.py: l1 and smooth_l1 (of the code), giou, ciou, iou_squared (of the boxes).
      box_factor: of the box loss in the sum.
      quality: what "site_quality" learns: centreness, objectness; None where the network has none.
      divided_by: losses are divided by the objects' sites of each "image", and averaged; or by those of the "batch"; or
        by the "quality" of the batch's, by which the box losses are weighted too.
      score_threshold: a detection needs a higher score.
      candidates: the best (site, class) pairs that go into suppression, of each "level" or "class" (`candidates_of`).
      best_class: a site answers with its best class only.
      suppression: IoU above which the weaker of a class is suppressed. 1 or None: nothing is suppressed; where there is
        the branch of `single`, that one answers.
      soft: in place of being suppressed they lose score (Bodla et al. 2017): "linear" (above that IoU) or "gaussian".
      sigma: of "gaussian".
      agnostic: boxes of different classes suppress each other too; candidates are then of each level.
      detections: how many are kept of an image.
      flip, scales: views of an image in evaluation, as in augmented.py.
      single: the assignment, one site an object, of a network with "single_logits" and "single_deltas": a second branch
        with the same losses (Wang et al. 2024, YOLOv10).
      beside: what objects have beside their boxes: ("masks",) of a network with a mask head, as condinst, and data with
        masks.
      mask_samples: sites with an object of each image that learn a mask, drawn at random.
      mask_cells: of a mask along each side of its box, learned and answered.
      mask_factor: of the masks' loss in the sum.
      divisor: zeros are added to images below and on the right, up to multiples of it; None: the largest stride of the
        network's `levels`, and 32 at least.
      mean, std: of the images, RGB, 0 to 1.

    Raises:
      UserError: an unknown name or option.

    Example:
      >>> from mapjax.models.detectors import retinanet
      >>> from mapjax.tasks.detection import dense
      >>> model = retinanet.make(backbone={"name": "resnet", "depth": 18}, classes=2)
      >>> task = dense.make(model=model, box_loss="giou", assignment={"name": "iou", "low": 0.3})
      >>> task.needs, task.metrics
      ('boxes', ('precision',))
    """
    _require_known("divided_by", divided_by, SHARES)
    _require_known("candidates_of", candidates_of, LISTS)
    masked = masks_of_sites.asked(beside, mask_samples, mask_cells)
    _require_quality(
        class_loss, divided_by, {"assignment": assignment} | ({} if single is None else {"single": single})
    )
    encode, decode_boxes = (_part("code", code, CODES, lambda pair, i=i: pair[i]) for i in (0, 1))
    of_class = _part("class_loss", class_loss, CLASS_LOSSES, lambda pair: pair[0])
    of_quality = None if quality is None else _part("quality", quality, QUALITIES, lambda pair: pair[0])
    joined = None if quality is None else QUALITIES[_named(quality)[0]][1]
    score = partial(scores_of, of_classes=CLASS_LOSSES[_named(class_loss)[0]][1], joined=joined)
    losses_of = partial(
        site_losses,
        encode=encode,
        decode=decode_boxes,
        score=score,
        class_loss=of_class,
        box_loss=_part("box_loss", box_loss, BOX_LOSSES),
        weighted=divided_by == "quality",
    )
    assign = _part("assignment", assignment, ASSIGNMENTS)
    branches = {"site": partial(losses_of, assign=assign, quality_loss=of_quality)}
    if single is not None:
        branches["single"] = partial(losses_of, assign=_part("single", single, ASSIGNMENTS), quality_loss=None)
    suppress = _suppression(suppression, soft=soft, sigma=sigma, agnostic=agnostic, score_threshold=score_threshold)
    answering = "site" if suppress is not None or single is None else "single"
    answer = partial(
        answers.detect_by_level if candidates_of == "level" or agnostic else answers.detect_by_class,
        decode=decode_boxes,
        threshold=score_threshold,
        candidates=candidates,
        suppress=suppress,
        count=detections,
    )
    normalize = partial(image_ops.normalize, mean=mean, std=std)
    multiple = max([frames.DIVISOR, *model.levels.values()]) if divisor is None else divisor
    heads = {name: {part: f"{name}_{part}" for part in ("logits", "deltas")} for name in branches}
    if quality is not None:
        heads["site"]["quality"] = "site_quality"

    @cache
    def sites_of(height: int, width: int) -> Sequence[Any]:
        return model.calls["sites"](frames.padded(height, multiple), frames.padded(width, multiple))

    def pixels(batch: Batch):
        return frames.pad(image_ops.normalized(batch["image"], normalize), multiple)

    def init(key, batch: Batch) -> Variables:
        return model.init(key, pixels(batch))

    def loss(variables: Variables, batch: Batch, context: Context):
        outputs, stats = model.apply(variables, pixels(batch), train=True, key=context.key)
        truth = {name: batch[name] for name in ("boxes", "classes", "crowd", "valid")}
        sites, terms, matched = sites_of(*batch["image"].shape[1:3]), {}, {}
        for name, losses in branches.items():
            said = _taken(outputs, heads[name])
            sums, count, matched[name] = shard.per_example(jax.vmap(partial(losses, sites=sites)))(said, truth)
            found = shared(sums, count, batch["mask"], divided_by)
            terms |= {f"loss_{part}" if name == "site" else f"loss_{name}_{part}": one for part, one in found.items()}
        if masked:
            cut = {"samples": mask_samples, "size": mask_cells}
            terms |= masks_of_sites.loss(context.key, model, outputs, matched["site"], batch, **cut)
        total = sum(value * factor_of(name) for name, value in terms.items())
        return total, (stats, {"loss": total} | terms | left_out(batch))

    def factor_of(term: str) -> float | int:
        return mask_factor if term == "loss_mask" else box_factor if term.endswith("_box") else 1

    def predict(variables: Variables, batch: Batch, key) -> Prediction:
        del key
        outputs, _ = model.apply(variables, pixels(batch), train=False, key=None)
        said = {key: outputs[key] for key in heads[answering].values() if key in outputs}
        prediction = {"features": outputs["features"]} | said
        if not masked:
            return prediction
        found = choose(prediction, batch)  # masks are drawn for what is chosen, and not for all sites
        masks = masks_of_sites.predict(model, outputs, found, mask_cells)
        return prediction | {key: found[key] for key in DETECTION} | masks

    def choose(prediction: Prediction, batch: Batch) -> Result:
        said = _taken(prediction, heads[answering])
        scores = score(said)
        if best_class:
            scores = jnp.where(scores == scores.max(-1, keepdims=True), scores, 0)
        one = partial(answer, sites=sites_of(*batch["image"].shape[1:3]))
        return shard.per_example(jax.vmap(one))(scores, said["deltas"], frames.extents(batch))

    def decode(prediction: Prediction, batch: Batch) -> Result:
        found = prediction if masked else choose(prediction, batch)
        result = frames.to_original({key: found[key] for key in DETECTION}, batch)
        return result | (masks_of_sites.decode(prediction) if masked else {})

    needs, metrics = ("masks", ("precision", "mask_precision")) if masked else ("boxes", ("precision",))
    task = Task(needs, normalize, init, loss, predict, decode, metrics)
    return augmented.by_views(task, flip=flip, scales=scales)


def scores_of(
    said: Mapping[str, Any], *, of_classes: Callable[..., Any], joined: Callable[..., Any] | None
) -> Float[Array, "*b c"]:
    """The score of each class, 0 to 1: of "logits" (*b c), and where there is "quality" (*b) joined with that."""
    scores = of_classes(said["logits"])
    if joined is None or "quality" not in said:
        return scores
    return joined(scores, jax.nn.sigmoid(said["quality"])[..., None])


def site_losses(
    said: Mapping[str, Any],
    truth: Mapping[str, Any],
    *,
    sites: Sequence[Any],
    assign: Callable[..., Any],
    encode: Callable[..., Any],
    decode: Callable[..., Any],
    score: Callable[..., Any],
    class_loss: Callable[..., Any],
    box_loss: Callable[..., Any],
    quality_loss: Callable[..., Any] | None,
    weighted: bool,
) -> tuple[dict[str, Any], Any, Any]:
    """Sums of the losses of one image's sites, by name, how many sites have an object, and which each has (r).

    Args:
      said: "logits" (r c), "deltas" (r 4), perhaps "quality" (r).
      truth: "boxes" (m 4), "classes", "crowd" and "valid" (m).
      sites: one array (r_l 4) a level.
      weighted: box losses are weighted by the assignment's quality, and its sum is given in place of the number.
    """
    every = jnp.concatenate([jnp.asarray(level) for level in sites])
    predicted = {"deltas": said["deltas"], "boxes": decode(said["deltas"], every)}
    seen = {"scores": score(said), "boxes": predicted["boxes"]}
    found = assign(truth, sites, jax.lax.stop_gradient(seen))
    positive, owner = found["matched"] >= 0, jnp.maximum(found["matched"], 0)
    targets = {
        "classes": truth["classes"][owner],
        "boxes": jnp.where(positive[:, None], truth["boxes"][owner], every),
        "positive": positive,
        "counted": found["matched"] != IGNORED,
    } | {name: value for name, value in found.items() if name == "quality"}
    wanted = {"deltas": encode(targets["boxes"], every), "boxes": targets["boxes"]}
    weight = targets["quality"] if weighted else jnp.ones(len(every))
    each = {
        "class": class_loss(said["logits"], targets),
        "box": jnp.where(positive, box_loss(predicted, wanted) * weight, 0),
    }
    if quality_loss is not None:
        each["quality"] = quality_loss(said["quality"], targets, every)
    sums = {name: value.sum() for name, value in each.items()}
    return sums, jnp.where(positive, weight, 0).sum(), found["matched"]


def shared(sums: Mapping[str, Any], positives, mask, by: str) -> dict[str, Any]:
    """Losses of a batch from the sums (b) of its images, over their sites with objects (b); `mask` (b) is of images."""
    if by == "image":
        weight = mask / (jnp.maximum(positives, 1) * jnp.maximum(mask.sum(), 1))
    else:
        weight = mask / jnp.maximum((positives * mask).sum(), 1)
    return {name: jnp.where(mask, value * weight, 0).sum() for name, value in sums.items()}


def _taken(outputs: Mapping[str, Any], keys: Mapping[str, str]) -> dict[str, Any]:
    """Give the outputs of a branch, by part."""
    for key in keys.values():
        if key not in outputs:
            mend = "task.single=None" if key.startswith("single") else "task.quality=None"
            raise UserError(
                f"the task 'dense' needs a network that gives {key!r}: set {mend}, or choose another model."
            )
    return {part: outputs[key] for part, key in keys.items()}


def _suppression(iou: float | int | None, **options: Any) -> suppressing.Suppress | None:
    """Make what suppresses; None where nothing is, and `soft` and `agnostic` mean nothing.

    Raises:
      UserError: one of these all the same.
    """
    if iou is not None and iou < 1:
        return suppressing.chosen(float(iou), **options)
    for key in ("soft", "agnostic"):
        if options[key]:
            raise UserError(f"task.{key}={options[key]!r} needs task.suppression, an IoU below 1; it is {iou}.")
    return None


def _require_quality(class_loss: Node, divided_by: str, assignments: Mapping[str, Node]) -> None:
    """Refuse assignments that give no quality where a loss needs it."""
    asks = {"class_loss='bce'": _named(class_loss)[0] == "bce", "divided_by='quality'": divided_by == "quality"}
    for key, node in assignments.items():
        for what, needed in asks.items():
            if needed and _named(node)[0] not in GRADED:
                raise UserError(f"task.{what} needs task.{key} to be one of {', '.join(GRADED)}, which tell a quality.")


def _named(node: Node) -> tuple[str, dict[str, Any]]:
    options = {"name": node} if isinstance(node, str) else dict(node)
    return options.pop("name", ""), options


def _part(key: str, node: Node, known: Mapping[str, Any], chosen: Callable[[Any], Any] = lambda one: one) -> Any:
    """Give the function that a node names, with its options."""
    name, options = _named(node)
    _require_known(key, name, known)
    function = chosen(known[name])
    takes = [one.name for one in inspect.signature(function).parameters.values() if one.kind is one.KEYWORD_ONLY]
    for option in options:
        if option not in takes:
            raise UserError(f"task.{key}: {name!r} takes no {option!r}.{near(option, takes)}")
    return partial(function, **options)


def _require_known(key: str, name: str, known: Mapping[str, Any] | Sequence[str]) -> None:
    if name not in known:
        raise UserError(f"task.{key}={name!r} is not known.{near(name, known)}")

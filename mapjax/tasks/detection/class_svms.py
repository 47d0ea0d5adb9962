"""Class SVMs on the features of a trained R-CNN (Girshick et al. 2014, section 2.3), in place of its softmax.

Of each class a linear SVM: its objects are the true boxes, its background the proposals that overlap none of them by
0.3 or more; what is between is left out. Background is mined: an SVM is fitted anew with what it was wrong about.
"""

from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from mapjax.errors import UserError, near
from mapjax.task import Model, Variables

if TYPE_CHECKING:
    from sklearn.svm import LinearSVC

SCORES = ("softmax", "svm")
NO_TRAINING = (
    "task.scores='svm': SVMs are fitted to a run that is trained; train with task.scores='softmax', and then "
    "mapjax evaluate --workdir DIR --config.task.scores=svm."
)
OVERLAP, COST, LENGTH = 0.3, 1e-3, 20.0  # the paper's; features are scaled to this length on average
OBJECT, BACKGROUND, IGNORED = 1, -1, 0
_NEVER = -1e4  # the margin of a class without any object to learn from
_FIRST = 2000  # boxes of background that a first SVM is fitted to


def is_svm(scores: str) -> bool:
    """Tell whether scores are those of SVMs.

    Raises:
      UserError: neither theirs nor a softmax's.
    """
    if scores not in SCORES:
        raise UserError(f"task.scores={scores!r} must be 'softmax' or 'svm'.{near(scores, SCORES)}")
    return scores == "svm"


def scores(logits):
    """Make scores from 0 to 1 of the classes' margins: in their order, which is all that average precision sees."""
    return jax.nn.sigmoid(logits)


def roles(
    boxes: Float[np.ndarray, "n 4"], truth: Float[np.ndarray, "m 4"], numbers: Int[np.ndarray, " m"], classes: int
) -> Int[np.ndarray, "n c"]:
    """Say what each proposal of an image is to each class: background, or left out where it overlaps its objects."""
    found = np.full((len(boxes), classes), BACKGROUND, np.int8)
    for box, number in zip(truth, numbers, strict=True):
        sides = np.minimum(boxes[:, 2:], box[2:]) - np.maximum(boxes[:, :2], box[:2])
        inner = np.maximum(sides, 0).prod(1)
        areas = (boxes[:, 2:] - boxes[:, :2]).prod(1), (box[2:] - box[:2]).prod()
        found[inner >= OVERLAP * np.maximum(areas[0] + areas[1] - inner, 1e-9), number] = IGNORED
    return found


def fit(
    vectors: Float[np.ndarray, "n d"],
    role: Int[np.ndarray, "n c"],
    *,
    cost: float = COST,
    first: int = _FIRST,
) -> tuple[Float[np.ndarray, "d c"], Float[np.ndarray, " c"]]:
    """Fit a linear SVM of each class; returns weights and offsets, whose margin is `vectors @ weights + offsets`.

    Args:
      role: OBJECT, BACKGROUND or IGNORED, of each vector to each class.
      cost: of an error (C).
      first: boxes of background that the first fit sees; the answer is that of all, whatever it is.

    Example:
      >>> import numpy as np
      >>> from mapjax.tasks.detection import class_svms
      >>> weights, offsets = class_svms.fit(np.array([[1.0], [-1.0]], np.float32), np.array([[1], [-1]]), cost=1.0)
      >>> weights.shape, bool(weights[0, 0] > 0)
      ((1, 1), True)
    """
    scale = LENGTH / max(float(np.linalg.norm(vectors, axis=1).mean()), 1e-12)
    weights, offsets = np.zeros((vectors.shape[1], role.shape[1]), np.float32), np.full(role.shape[1], _NEVER)
    for number in range(role.shape[1]):
        objects, background = (vectors[role[:, number] == one] * scale for one in (OBJECT, BACKGROUND))
        if len(objects) and len(background):
            machine = _mined(objects, background, cost, first)
            weights[:, number], offsets[number] = machine.coef_[0] * scale, np.ravel(machine.intercept_)[0]
    return weights, offsets.astype(np.float32)


def _mined(objects: np.ndarray, background: np.ndarray, cost: float, first: int) -> "LinearSVC":
    """Fit to all objects and to the background that matters: what is within the margin, or beyond it."""
    from sklearn.svm import LinearSVC

    options: Any = {"C": cost, "dual": False, "tol": 1e-6, "max_iter": 10_000}
    seen: Bool[np.ndarray, " n"] = np.arange(len(background)) < first
    while True:
        rows = np.concatenate([objects, background[seen]])
        sides = np.repeat([1, -1], [len(objects), int(seen.sum())])
        machine = LinearSVC(**options).fit(rows, sides)
        hard = (machine.decision_function(background) > -1) & ~seen
        if not hard.any():
            return machine
        seen |= hard


def require(model: Model) -> None:
    """Refuse a network that gives no features of boxes.

    Raises:
      UserError: with the network that does.
    """
    if "vectors" not in model.calls:
        raise UserError(
            "task.scores='svm' needs the features of each box, which model.name='rcnn' gives; take softmax."
        )


def installed(variables: Variables, weights: Float[np.ndarray, "d c"], offsets: Float[np.ndarray, " c"]) -> Variables:
    """Give a network's variables with SVMs in place of its scores; background has none."""
    predictor: Any = variables["params"]["box_predictor"]
    scored = {"kernel": np.pad(weights, ((0, 0), (1, 0))), "bias": np.pad(offsets, (1, 0))}
    params = {**variables["params"], "box_predictor": {**predictor, "cls_score": scored}}
    return {**variables, "params": params}

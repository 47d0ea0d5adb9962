"""Start from weights that were learned elsewhere: a file, a published name, or the folder of a run.

What was loaded, what stays as drawn and what the file holds besides is told; a tensor that does not fit is an error,
unless it belongs to a head, whose size depends on the classes.
"""

import pathlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from rich.table import Table
from rich.text import Text

from mapjax import run, weights
from mapjax.errors import UserError, near
from mapjax.task import State, Variables

Tensors = Mapping[str, np.ndarray]
HEAD = re.compile(
    r"(^|\.)(fc|(low_|high_)?classifier|pre_logits|heads?|aux\w*|AuxLogits|cls_score|bbox_pred|cls_logits|roi_heads"
    r"|rpn|crf)(\.|$)"
)
# Where in our network another one's tensors may belong.
PLACES = ("", "backbone.body.", "backbone.", "unary.", "unary.backbone.")
_SHOWN = 4


class Transfer(NamedTuple):
    """The filled variables, and the torchvision names of what was loaded, kept as drawn, and not used."""

    variables: Variables
    loaded: Sequence[str]
    resized: Sequence[str]
    fresh: Sequence[str]
    unused: Sequence[str]


class Given(NamedTuple):
    """Weights to start from: where they come from, their tensors, and the classes they know (None: not known)."""

    source: str
    tensors: Tensors
    classes: tuple[str, ...] | None = None


def start_from(given: Given, state: State, classes: Sequence[str], places: Any, say: Callable[[Any], None]) -> State:
    """Replace the parameters and statistics of a drawn state by given ones; print a table.

    Args:
      given: what `read` gives. state: as drawn; the optimizer's state is kept. classes: of the new task.
      places: the sharding of every leaf of the state.

    Raises:
      UserError: its tensors are not those of this network.
    """
    tensors = given.tensors
    if given.classes is not None and given.classes != tuple(classes):
        tensors = without_heads(tensors, len(given.classes))
    found = fit_in(tensors, {"params": state.params, "stats": state.stats}, given.source)
    say(table(given.source, found))
    new = state._replace(params=found.variables["params"], stats=found.variables["stats"])
    if state.ema is not None:
        new = new._replace(ema=new.params)
    # Copied in a jit: the state will be donated, and memory of NumPy's must not be.
    return jax.jit(lambda values: jax.tree.map(jnp.copy, values), out_shardings=places)(new)


def read(source: str) -> Given:
    """Read a file (.safetensors, .npz, .pth, .pt), a name as "torchvision/resnet50.IMAGENET1K_V2", or a workdir.

    Raises:
      UserError: no such source, or one that cannot be read.
    """
    path = pathlib.Path(source).expanduser()
    if path.is_dir():
        loaded = run.load(path, which="best")
        return Given(source, weights.to_torchvision(loaded.variables), loaded.classes)
    return Given(source, weights.load(source))


def without_heads(tensors: Tensors, classes: int) -> dict[str, np.ndarray]:
    """Leave out the last layers of a network that tells `classes` classes: they answer for other classes."""
    lengths = (classes, classes + 1, 4 * (classes + 1))  # of classifiers, and of the scores and boxes of detectors
    return {n: t for n, t in tensors.items() if not (HEAD.search(n) and np.shape(t)[:1] and len(t) in lengths)}


def fit_in(tensors: Tensors, variables: Variables, source: str) -> Transfer:
    """Fill variables as far as the tensors go.

    Raises:
      UserError: a tensor outside of the heads that is missing, has another shape or no place.
    """
    wanted = weights.to_torchvision(variables)
    given, place = _best_reading(tensors, wanted)
    loaded = {name for name, tensor in given.items() if name in wanted and tensor.shape == wanted[name].shape}
    resized = sorted(name for name in set(given) & set(wanted) - loaded)
    fresh = sorted(name for name in wanted if name not in given)
    unused = sorted(name for name in given if name not in wanted)
    if not loaded:
        raise UserError(
            f"init_from={source}: none of its {len(given)} tensors belongs in this network; check model.name."
        )
    for name in resized:
        if not HEAD.search(name):
            raise UserError(
                f"init_from={source}: tensor {name!r} has shape {given[name].shape}, and this network needs "
                f"{wanted[name].shape}; choose the sizes that the weights were trained with."
            )
    for name in fresh:
        if name.startswith(place) and not HEAD.search(name):
            hint = near(name, unused or given)
            raise UserError(f"init_from={source} has no tensor {name!r}, which this network needs.{hint}")
    for name in unused:
        if not HEAD.search(name):
            raise UserError(
                f"init_from={source} holds the tensor {name!r}, for which this network has no place; choose the model "
                "that the weights were trained with."
            )
    kept = {name: given[name] if name in loaded else wanted[name] for name in wanted}
    return Transfer(weights.from_torchvision(kept, variables), sorted(loaded), resized, fresh, unused)


def table(source: str, found: Transfer) -> Table:
    """Lay out what became of the tensors."""
    sheet = Table(title=Text(f"weights from {source}"), title_justify="left", show_header=False)
    rows = {
        "loaded": found.loaded,
        "another size, drawn anew": found.resized,
        "not in the file, drawn anew": found.fresh,
        "in the file, not used": found.unused,
    }
    for label, names in rows.items():
        shown = ", ".join(names[:_SHOWN]) + (" …" if len(names) > _SHOWN else "")
        sheet.add_row(label, str(len(names)), Text(shown))
    return sheet


def _best_reading(tensors: Tensors, wanted: Tensors) -> tuple[dict[str, np.ndarray], str]:
    """Choose the names (torchvision's or timm's) and the place in our network under which most tensors fit."""
    best: tuple[int, dict[str, np.ndarray], str] = (-1, {}, "")
    for named in weights.readings(tensors):
        for place in PLACES:
            given = {place + name: np.asarray(tensor) for name, tensor in named.items()}
            fits = sum(name in wanted and tensor.shape == wanted[name].shape for name, tensor in given.items())
            if fits > best[0]:
                best = fits, given, place
    return best[1], best[2]

"""Start from weights that were learned elsewhere: a file, a published name, or those of another run.

What was loaded, what stays as drawn and what the file holds besides is told. A tensor that does not fit is an error,
unless its size depends on the classes; so is one that is missing or has no place, unless it belongs to a head of which
the file, or this network, has nothing at all.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from rich.table import Table
from rich.text import Text

from mapjax import weights
from mapjax.errors import UserError, near
from mapjax.ops.resize import resize_positions
from mapjax.task import State, Variables

Tensors = Mapping[str, np.ndarray]
Shapes = Mapping[str, tuple[int, ...]]
Size = tuple[int, int]
POSITIONS = "encoder.pos_embedding"
_SHOWN = 4


class Transfer(NamedTuple):
    """The filled variables, in which what was loaded is NumPy's; and the torchvision names of what became of tensors.

    loaded: as they are.
    interpolated: loaded for another grid of patches.
    resized: of another size.
    other_classes: of the right size, but learned for other classes.
    fresh: not in the file.
    unused: in the file only.
    """

    variables: Variables
    loaded: Sequence[str]
    interpolated: Sequence[str]
    resized: Sequence[str]
    other_classes: Sequence[str]
    fresh: Sequence[str]
    unused: Sequence[str]


class Given(NamedTuple):
    """Weights to start from: their source and tensors; the classes and the size of images they know, if known."""

    source: str
    tensors: Tensors
    classes: tuple[str, ...] | None = None
    image_size: Size | None = None


class Target(NamedTuple):
    """The network to fill: its classes, the size of its images, and the sharding of every leaf of its state.

    heads: as its Model has them.
    sized: names of the tensors whose size depends on the number of classes.
    """

    classes: Sequence[str]
    image_size: Size
    heads: Sequence[str]
    sized: Collection[str]
    places: Any


def start_from(given: Given, state: State, target: Target, say: Callable[[Any], None]) -> State:
    """Replace the parameters and statistics of a drawn state by given ones; print a table.

    Args:
      given: what `read` gives.
      state: as drawn, over any number of processes; the optimizer's state is kept.

    Raises:
      UserError: its tensors are not those of this network.
    """
    found = fit_in(
        given.tensors,
        {"params": state.params, "stats": state.stats},
        given.source,
        heads=target.heads,
        sized=target.sized,
        other_classes=given.classes not in (None, tuple(target.classes)),
        sizes=(given.image_size, target.image_size),
    )
    say(table(given.source, found))
    new = state._replace(params=found.variables["params"], stats=found.variables["stats"])
    if state.ema is not None:
        new = new._replace(ema=new.params)
    new = jax.tree.map(_placed, new, target.places)
    # Copied in a jit: the state will be donated, and memory of NumPy's must not be.
    return jax.jit(lambda values: jax.tree.map(jnp.copy, values), out_shardings=target.places)(new)


def _placed(leaf: Any, place: jax.sharding.Sharding) -> jax.Array:
    """Let each device take its part of what was loaded; what was drawn is in its place."""
    if isinstance(leaf, np.ndarray):
        return jax.make_array_from_callback(leaf.shape, place, lambda part: leaf[part])
    return leaf


def read(source: str) -> Given:
    """Read a file (.safetensors, .npz, .pth, .pt) or a name as "torchvision/resnet50.IMAGENET1K_V2".

    Raises:
      UserError: no such source, or one that cannot be read.
    """
    return Given(source, weights.load(source))


def sized_by_classes(variables: Variables, more: Variables) -> frozenset[str]:
    """Name the tensors whose size depends on the number of classes.

    Args:
      variables: of a network; only their shapes matter.
      more: of the same for one class more.
    """
    ours, theirs = weights.shapes(variables), weights.shapes(more)
    return frozenset(name for name, shape in ours.items() if theirs.get(name) != shape)


def fit_in(
    tensors: Tensors,
    variables: Variables,
    source: str,
    *,
    heads: Sequence[str] = (),
    sized: Collection[str] | None = None,
    other_classes: bool = False,
    sizes: tuple[Size | None, Size | None] = (None, None),
) -> Transfer:
    """Fill variables as far as the tensors go.

    Args:
      heads: expressions over the paths of parameters, as the Model has them; what one matches, to its end, is the name
        of a head.
      sized: names of the tensors whose size depends on the number of classes; None: it is not known, any of a head may.
      other_classes: the tensors were learned for others, so those of `sized` stay as drawn even where they fit.
      sizes: of the images, theirs and ours, for position embeddings; those of a square grid need none.

    Raises:
      UserError: a tensor that is missing, has another shape or no place, where only a head of other classes may.
    """
    wanted = weights.shapes(variables)
    given, place = _best_reading(tensors, wanted)
    fits = {name for name, tensor in given.items() if wanted.get(name) == tensor.shape}
    if not fits:
        raise UserError(
            f"init_from={source}: none of its {len(given)} tensors belongs in this network; check model.name."
        )
    grown = _interpolated(given, wanted, sizes)
    left = fits.intersection(sized or ()) if other_classes else set[str]()
    found = Transfer(
        weights.replace({**{name: given[name] for name in fits - left}, **grown}, variables),
        loaded=sorted(fits - left),
        interpolated=sorted(grown),
        resized=sorted(set(given) & set(wanted) - fits - set(grown)),
        other_classes=sorted(left),
        fresh=sorted(name for name in wanted if name not in given),
        unused=sorted(name for name in given if name not in wanted),
    )
    head_of = {name: _head(name, heads) for name in {*wanted, *given}}
    _require_told(found, (given, wanted), place, head_of, sized, source)
    return found


def _require_told(
    found: Transfer,
    both: tuple[Tensors, Shapes],
    place: str,
    head_of: Mapping[str, str | None],
    sized: Collection[str] | None,
    source: str,
) -> None:
    """Refuse what is more than a head of other classes, or one that is absent as a whole."""
    given, wanted = both
    of_classes = {name for name in wanted if head_of[name]} if sized is None else sized
    for name in found.resized:
        if name not in of_classes:
            raise UserError(
                f"init_from={source}: tensor {name!r} has shape {given[name].shape}, and this network needs "
                f"{wanted[name]}; choose the sizes that the weights were trained with."
            )
    held, needed, strange = ({head_of[name] for name in names} for names in (given, wanted, found.unused))
    for name in found.fresh:
        head = head_of[name]
        absent = head is not None and head not in held
        answers = name in (sized or ()) and head not in strange
        if name.startswith(place) and not absent and not answers:
            hint = near(name, found.unused or given)
            raise UserError(f"init_from={source} has no tensor {name!r}, which this network needs.{hint}")
    for name in found.unused:
        if head_of[name] is None or head_of[name] in needed:
            raise UserError(
                f"init_from={source} holds the tensor {name!r}, for which this network has no place; choose the model "
                "that the weights were trained with."
            )


def _head(name: str, heads: Sequence[str]) -> str | None:
    """The head that a tensor belongs to, as "backbone/classifier/"; None for one of the body."""
    path = name.replace(".", "/")
    return next((path[: found.end()] for head in heads if (found := re.search(head, path))), None)


def table(source: str, found: Transfer) -> Table:
    """Lay out what became of the tensors."""
    sheet = Table(title=Text(f"weights from {source}"), title_justify="left", show_header=False)
    rows = {
        "loaded": found.loaded,
        "interpolated for another size of images": found.interpolated,
        "another size, reinitialised": found.resized,
        "for other classes, reinitialised": found.other_classes,
        "not in the file, reinitialised": found.fresh,
        "in the file, not used": found.unused,
    }
    for label, names in rows.items():
        shown = ", ".join(names[:_SHOWN]) + (" …" if len(names) > _SHOWN else "")
        sheet.add_row(label, str(len(names)), Text(shown))
    return sheet


def _best_reading(tensors: Tensors, wanted: Shapes) -> tuple[dict[str, np.ndarray], str]:
    """Choose the names (torchvision's or timm's) and the place in our network under which most tensors fit."""
    best: tuple[int, dict[str, np.ndarray], str] = (-1, {}, "")
    for named in weights.readings(tensors):
        arrays = {name: np.asarray(tensor) for name, tensor in named.items()}
        fits, place = _best_place({name: array.shape for name, array in arrays.items()}, wanted)
        if fits > best[0]:
            best = fits, arrays, place
    _, arrays, place = best
    return {place + name: array for name, array in arrays.items()}, place


def _best_place(given: Shapes, wanted: Shapes) -> tuple[int, str]:
    """Where in our network another one stands, as "backbone.body.", and how many of its tensors fit there."""
    fits = Counter({"": 0})
    for name, shape in wanted.items():
        parts = name.split(".")
        for i in range(len(parts)):
            if given.get(".".join(parts[i:])) == shape:
                fits["".join(f"{part}." for part in parts[:i])] += 1
    place = max(fits, key=lambda place: (fits[place], -len(place)))
    return fits[place], place


def _interpolated(given: Tensors, wanted: Shapes, sizes: tuple[Size | None, Size | None]) -> dict[str, np.ndarray]:
    """Position embeddings (1 1+patches width) of a ViT for our grid of patches, where theirs is another (bicubic)."""
    found = {}
    for name, tensor in given.items():
        shape, patches = wanted.get(name), wanted.get(name.removesuffix(POSITIONS) + "conv_proj.weight")
        if not name.endswith(POSITIONS) or shape is None or patches is None or tensor.shape == shape:
            continue
        counts = tensor.shape[1] - 1, shape[1] - 1
        theirs, ours = (_grid(count, patches[-1], size) for count, size in zip(counts, sizes))
        if theirs and ours and tensor.shape[::2] == shape[::2]:
            found[name] = np.asarray(resize_positions(jnp.asarray(tensor, jnp.float32), theirs, ours))
    return found


def _grid(count: int, patch: int, size: Size | None) -> tuple[int, int] | None:
    """Rows and columns of `count` patches: those of an image of `size`, or else of a square one."""
    if size is not None and (size[0] // patch) * (size[1] // patch) == count:
        return size[0] // patch, size[1] // patch
    side = math.isqrt(count)
    return (side, side) if side**2 == count else None

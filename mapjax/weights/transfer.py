"""Start from weights that were learned elsewhere: a file, a published name, or those of another run.

What was loaded, what stays as drawn and what the file holds besides is told. A tensor that does not fit is an error,
unless its size depends on the classes; so is one that is missing or has no place, unless it belongs to a head of which
the file, or this network, has nothing at all.
"""

import itertools
import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from rich.table import Table
from rich.text import Text

from mapjax import weights
from mapjax.errors import UserError
from mapjax.ops.resize import resize_positions
from mapjax.task import State, Variables
from mapjax.weights import fitting, mismatch, stored
from mapjax.weights.stored import Stored, shown

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
    outside: of other modules or state dicts in the file.
    """

    variables: Variables
    loaded: Sequence[str]
    interpolated: Sequence[str]
    resized: Sequence[str]
    other_classes: Sequence[str]
    fresh: Sequence[str]
    unused: Sequence[str]
    outside: Sequence[str]


class Given(NamedTuple):
    """Weights to start from: their source and tensors; the classes and the size of images they know, if known."""

    source: str
    tensors: Tensors | Stored
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
    """Read a file (.safetensors, .npz or torch's) or a name as "torchvision/resnet50.IMAGENET1K_V2".

    Raises:
      UserError: no such source, or one that cannot be read.
    """
    return Given(source, weights.index(source))


def sized_by_classes(variables: Variables, more: Variables) -> frozenset[str]:
    """Name the tensors whose size depends on the number of classes.

    Args:
      variables: of a network; only their shapes matter.
      more: of the same for one class more.
    """
    ours, theirs = weights.shapes(variables), weights.shapes(more)
    return frozenset(name for name, shape in ours.items() if theirs.get(name) != shape)


def fit_in(
    tensors: Tensors | Stored,
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
    file = tensors if isinstance(tensors, Stored) else stored.held(tensors)
    part = fitting.best(file, wanted, f"init_from={source}")
    given = part.tensors
    fits = {name for name, tensor in given.items() if wanted.get(name) == tensor.shape}
    if not fits:
        raise UserError(
            f"init_from={source}: none of its {len(given)} tensors belongs in this network: they are as "
            f"{_first(given)}, and this network's as {_first(wanted)}; check model.name, or begin without "
            "(init_from='')."
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
        outside=part.outside,
    )
    head_of = {name: _head(name, heads) for name in {*wanted, *given}}
    _require_told(found, (given, wanted), part.place, head_of, sized, source)
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
                f"init_from={source}: tensor {shown(name)} has shape {given[name].shape}, and this network needs "
                f"{wanted[name]}; choose the sizes that the weights were trained with."
            )
    held, needed, strange = ({head_of[name] for name in names} for names in (given, wanted, found.unused))

    def told(name: str) -> bool:
        absent = head_of[name] is not None and head_of[name] not in held
        answers = name in (sized or ()) and head_of[name] not in strange
        return absent or answers or not name.startswith(place)

    if missing := [name for name in found.fresh if not told(name)]:
        hint = mismatch.nearest(missing[0], found.unused or given)
        raise UserError(
            f"init_from={source} has no tensor {shown(missing[0])}, which this network needs"
            f"{mismatch.more(missing)}.{hint}"
        )
    if left := [name for name in found.unused if head_of[name] is None or head_of[name] in needed]:
        raise UserError(
            f"init_from={source} holds the tensor {shown(left[0])}, for which this network has no place"
            f"{mismatch.more(left)}; choose the model that the weights were trained with."
            f"{mismatch.nearest(left[0], wanted)}"
        )


def _first(tensors: Mapping[str, Any]) -> str:
    """Name the first tensors."""
    return ", ".join(map(shown, itertools.islice(tensors, _SHOWN)))


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
        "elsewhere in the file, not used": found.outside,
    }
    for label, names in rows.items():
        first = ", ".join(shown(name)[1:-1] for name in names[:_SHOWN]) + (" …" if len(names) > _SHOWN else "")
        sheet.add_row(label, str(len(names)), Text(first))
    return sheet


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

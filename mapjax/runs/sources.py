"""The data of a run from its config: its sources, what becomes of their records, and the shapes of a batch."""

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding

from mapjax import stages
from mapjax.config import load as configs
from mapjax.config import parts
from mapjax.data import labels, proposals, sampling, splits
from mapjax.data.checks import quality
from mapjax.data.source import Source, kind_of, labels_of, largest_size, truth_of
from mapjax.data.transforms import corruptions
from mapjax.engine import schedule
from mapjax.errors import NoSuchSplit, UserError
from mapjax.runs import held_out as shares
from mapjax.runs import networks
from mapjax.task import Batch

TURN = 10  # steps that have one size of multi_scale, as in YOLOv2


def make_source(config: Any, kind: str, split: str | None = None) -> Source:
    """Open the "train" or the "eval" split that the config names, or another one by name.

    Nothing is held out of "train" for a "val" that is not asked for. The images of "eval" are changed by
    `config.corruption`, if there is any (data/transforms/corruptions.py).
    """
    node = config.data.to_dict()
    if kind == "train" and splits.kind_of(str(config.splits.eval)) != "val":
        node = splits.without_hold_out(node)
    source = open_format(node, split or config.splits[kind], networks.needs(config), f"task {config.task.name!r}")
    if config.proposals:
        if not config.transform.get("proposals"):
            raise UserError(
                f"proposals={config.proposals!r}, and examples have room for none; set transform.proposals=1000, of "
                "the transform boxes, and task.proposals='data'."
            )
        source = proposals.attach(source, config.proposals, str(node.get("path") or ""))
    changes: Any = config.corruption
    return corruptions.shift(source, changes.to_dict()) if kind == "eval" and changes else source


def open_format(node: Mapping[str, Any], split: Any, needs: str, who: str) -> Source:
    """Open a split of the data that a node names, for `who` learns from labels of the kind `needs`.

    Raises:
      UserError: no such data or split, or its images have no such labels.
    """
    source = parts.make("data.formats", node, split=split, needs=needs)
    if needs not in labels.KINDS or not len(source.records):
        return source
    try:
        found = {kind_of(source), *labels.present(truth_of(source, 0))} - {None}
    except UserError:  # an image that cannot be read is replaced by another, and counted
        return source
    if not found & {needs, *(["labels"] if needs == "label" else [])}:  # an image may have any number of classes
        has = " and ".join(sorted(map(str, found))) or "no labels"
        raise UserError(f"{source.name}: its images have {has}, and {who} learns from {needs}; choose other data.")
    return source


def open_sources(config: Any) -> tuple[Any, Source, Source]:
    """Open the train and the eval split; the config comes back with the names of those two.

    Where `config.splits` names several of each, the first pair that the data set has both of is taken.

    Raises:
      UserError: no such splits, or the two have other classes.
    """
    names = [(one,) if isinstance(one, str) else tuple(one) for one in (config.splits.train, config.splits.eval)]
    longest = max(map(len, names))
    if any(len(one) not in (1, longest) for one in names):
        raise UserError(f"splits.train={names[0]} and splits.eval={names[1]} must name as many splits, in pairs.")
    trains, evals = (one * longest if len(one) == 1 else one for one in names)
    for number, (learnt, held) in enumerate(zip(trains, evals), 1):
        chosen = configs.from_dict(configs.to_dict(config) | {"splits": {"train": learnt, "eval": held}})
        try:
            with shares.explained(chosen):
                held_out = make_source(chosen, "eval")
            seen = make_source(chosen, "train")
        except NoSuchSplit as error:
            if number == longest:
                hint = "name others by --config.splits.train and .eval; a val that is not there is held out of train"
                raise NoSuchSplit(f"{str(error).rstrip('.')}; {hint}.") from error
            continue
        break
    if seen.classes != held_out.classes:
        raise UserError(
            f"{seen.name}: split {seen.split!r} has the classes {', '.join(seen.classes)}, and split "
            f"{held_out.split!r} has {', '.join(held_out.classes)}; they must be the same."
        )
    return chosen, seen, held_out


def make_transform(
    config: Any, *, augment: bool, size: tuple[int, int] | None = None, scored: Source | None = None
) -> Callable[..., Any]:
    """Make the transform of records to examples of `size` (by default as the config says).

    Args:
      scored: the source whose examples are to be scored; None for training, and for images without truth.
    """
    node = config.transform.to_dict()
    if augment:
        return parts.make("data.transforms", node, size=size or config.image_size)
    chosen = size or config.eval_size or config.image_size
    canvas = None if scored is None else partial(largest_size, scored)
    return parts.make("data.transforms", {**node, "augment": None}, size=chosen, canvas=canvas)


def make_transforms(config: Any, clock: schedule.Clock) -> list[tuple[int, Callable[..., Any]]]:
    """Make the transforms of training, each with the step from which on it holds.

    More than one where `config.progressive_sizes` lets the images grow: ((0.0, (128, 128)), (0.6, (192, 192))) are
    shares of the training and sizes (progressive resizing: Touvron et al. 2019; Tan & Le 2021); where the sizes of
    `config.multi_scale` take turns, drawn from the seed and the step (Redmon & Farhadi 2017); and where the share
    `config.calm_last` at the end is without what joins images or changes their scale much.

    Raises:
      UserError: sizes that are no such pairs, or do not begin at 0 and go up; both kinds of sizes.
    """
    if config.multi_scale and config.progressive_sizes:
        raise UserError("multi_scale and progressive_sizes both say how large images are; set one of them to ().")
    end = round((1 - config.calm_last) * clock.total)
    wild = _in_turns(config, end) if config.multi_scale else _growing(config, clock)
    if not config.calm_last:
        return wild
    size = config.image_size if config.multi_scale or not config.progressive_sizes else config.progressive_sizes[-1][1]
    calm = make_transform(_calmed(config), augment=True, size=tuple(size))
    return [one for one in wild if one[0] < end or one[0] == 0] + [(end, calm)]


def _growing(config: Any, clock: schedule.Clock) -> list[tuple[int, Callable[..., Any]]]:
    """Make the transforms of `progressive_sizes`, or the one of `image_size`."""
    sizes: Any = config.progressive_sizes or ((0.0, config.image_size),)
    try:
        pairs = [(float(share), (int(size[0]), int(size[1]))) for share, size in sizes]
        starts = [share for share, _ in pairs]
        good = starts[0] == 0 and starts == sorted(set(starts)) and starts[-1] < 1 and min(min(s) for _, s in pairs) > 0
    except (TypeError, ValueError, IndexError):
        good = False
    if not good:
        raise UserError(
            f"progressive_sizes={sizes} must be pairs of a share (0 first) and a size, as in ((0, (96, 96)), "
            "(0.5, (128, 128)))."
        )
    return [(round(share * clock.total), make_transform(config, augment=True, size=size)) for share, size in pairs]


def _in_turns(config: Any, end: int) -> list[tuple[int, Callable[..., Any]]]:
    """Make a transform for each size of `multi_scale`, and say by the seed which one each turn before `end` has."""
    given: Any = config.multi_scale
    try:
        sizes = [(int(height), int(width)) for height, width in given]
        good = min(map(min, sizes)) > 0
    except (TypeError, ValueError):
        sizes, good = [], False
    if not good:
        raise UserError(f"multi_scale={given} must be sizes in pixels, as in ((256, 256), (320, 320)).")
    made = [make_transform(config, augment=True, size=size) for size in sizes]
    turns = -(-max(end, 1) // TURN)
    rounds = range(-(-turns // len(made)))  # in each every size has a turn
    drawn = np.concatenate([np.random.default_rng((config.seed, one)).permutation(len(made)) for one in rounds])
    return [(TURN * turn, made[which]) for turn, which in enumerate(drawn[:turns].tolist())]


def _calmed(config: Any) -> Any:
    """Give the config with a transform that leaves out what the module of that transform calls `CALM`."""
    plain = configs.to_dict(config)
    node = plain["transform"]
    off = getattr(sys.modules[parts.find("data.transforms", node["name"]).__module__], "CALM", {})
    if node.get("augment") is None:
        return config
    augment = {**node["augment"], **off.get("augment", {})}
    return configs.from_dict(plain | {"transform": {**node, **off, "augment": augment}})


def make_sampler(config: Any, source: Source) -> sampling.Sampler:
    """Make what says which records an epoch shows, in which order."""
    kind = config.sampling
    return sampling.make(kind, None if kind == "uniform" else labels_of(source), len(source.records), config.seed)


def class_counts(config: Any, source: Source, sampler: sampling.Sampler) -> np.ndarray:
    """Count the examples of each class that an epoch shows."""
    if config.sampling == "uniform":
        return quality.class_counts(source)
    return np.bincount(labels_of(source)[sampler.order(0)], minlength=len(source.classes))


def abstract_batches(
    source: Source, transforms: Sequence[tuple[int, Callable[..., Any]]], batch: int, sharding: NamedSharding
) -> list[Batch]:
    """Give the shapes of the batches of several transforms, images of one shape once; those of the last come last."""
    distinct = {id(transform): transform for _, transform in reversed(transforms)}
    found = [abstract_batch(source, transform, batch, sharding) for transform in reversed(distinct.values())]
    return list({one["image"].shape: one for one in reversed(found)}.values())[::-1]


def abstract_batch(source: Source, transform: Callable[..., Any], batch: int, sharding: NamedSharding) -> Batch:
    """Give the shapes of a batch, from the first record that can be read; its keys are checked against stages.py."""
    reason = "there are none"
    for index in range(len(source.records)):
        try:
            record = source.records[index]
            stages.check("record", record)
            others = [[record] * transform.companions] if getattr(transform, "companions", 0) else []
            example = {**transform(record, np.random.default_rng(0), *others), "index": np.int32(0)}
        except UserError as error:
            reason = str(error)
            continue
        stages.check("example", example)
        rows = {**example, "mask": np.bool_(True)}
        return {
            name: jax.ShapeDtypeStruct((batch, *np.shape(value)), np.asarray(value).dtype, sharding=sharding)
            for name, value in rows.items()
        }
    raise UserError(
        f"{source.name}: none of the {len(source.records)} images of {source.split!r} can be used, such as the last: "
        f"{reason}"
    )

"""A "val" that mapjax held out of "train" itself: whether its scores say anything, and the mend where they cannot."""

import contextlib
import inspect
from collections.abc import Iterator
from functools import partial
from typing import Any

from mapjax.config import parts
from mapjax.data import splits
from mapjax.data.checks.quality import AnySummary
from mapjax.data.source import Source
from mapjax.errors import NoSuchSplit, UserError
from mapjax.runs import networks
from mapjax.runtime.names import shown

MEND = "name a split to evaluate on by --config.splits.eval, or hold out more by --config.data.hold_out=0.3"


@contextlib.contextmanager
def explained(config: Any) -> Iterator[None]:
    """Say of a mistake in the "val" of a config that it is a share of "train", where it is one, and the mend.

    Raises:
      UserError: the block's own, with that behind it.
    """
    try:
        yield
    except NoSuchSplit:
        raise
    except UserError as error:
        if not _is_share(config, None):
            raise
        said = f"{str(error).rstrip('.')}; {config.splits.eval!r} is a share of train that was held out"
        raise UserError(f"{said}: {MEND}.") from error


def warning(config: Any, seen: AnySummary, summary: AnySummary, source: Source) -> str:
    """Say that a held-out share is too small to tell anything, or nothing.

    Args:
      config: with the splits that were chosen.
      seen, summary: of the training split and of the other (checks/quality.py).
      source: the other.
    """
    trained = getattr(seen, "per_class", {})
    missing = [name for name, count in getattr(summary, "per_class", {}).items() if not count and trained.get(name)]
    few = "1 image only" if summary.images == 1 else f"no images of {len(missing)} of {len(source.classes)} classes"
    if (summary.images > 1 and not missing) or not _is_share(config, source.fingerprint):
        return ""
    example = f", such as {shown(missing[0])}" if missing and summary.images > 1 else ""
    return f"{source.split!r}, a share of train that was held out, has {few}{example}: {MEND}."


def _is_share(config: Any, fingerprint: str | None) -> bool:
    """Tell whether the split to evaluate on is held out of "train": without that it is not there, or another."""
    node: Any = config.data.to_dict()
    takes = inspect.signature(parts.find("data.formats", node["name"])).parameters
    if "hold_out" not in takes or splits.kind_of(str(config.splits.eval)) != "val":
        return False
    whole = partial(parts.make, "data.formats", {**node, "hold_out": 0}, needs=networks.needs(config))
    try:
        whole(split=config.splits.train)  # what is wrong with all of it has nothing to do with a share
        return whole(split=config.splits.eval).fingerprint != fingerprint and fingerprint is not None
    except NoSuchSplit:
        return True
    except UserError:
        return False

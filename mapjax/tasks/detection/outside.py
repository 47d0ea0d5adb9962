"""Proposals from outside, in place of a first stage: a batch holds them (data/transforms/proposed.py)."""

from mapjax.errors import UserError, near
from mapjax.task import Batch, Model

SOURCES = ("network", "data")


def is_data(proposals: str) -> bool:
    """Tell whether proposals come from outside.

    Raises:
      UserError: neither from there nor from the network.
    """
    if proposals not in SOURCES:
        raise UserError(f"task.proposals={proposals!r} must be 'network' or 'data'.{near(proposals, SOURCES)}")
    return proposals == "data"


def require_network(proposals: str, model: Model) -> None:
    """Refuse a network that proposes nothing where it is to propose.

    Raises:
      UserError: with the keys to set.
    """
    if not is_data(proposals) and "anchors" not in model.calls:
        raise UserError(
            "this network proposes no boxes, as Faster R-CNN does: set task.proposals='data', transform.proposals=1000 "
            "and proposals='beside', where mapjax prepare --proposals leaves them."
        )


def of(batch: Batch):
    """Give the proposals (b p 4) of a batch, and which of them are real (b p).

    Raises:
      UserError: it has none.
    """
    if "proposals" not in batch:
        raise UserError(
            "task.proposals='data': a batch has none; set transform.proposals=1000, of the transform boxes."
        )
    return batch["proposals"], batch["proposals_valid"]

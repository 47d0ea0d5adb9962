"""What reading a file of weights may take: more than any weights need, and less than a hostile file would ask for."""

import os

from mapjax.errors import UserError

VARIABLE = "MAPJAX_WEIGHTS_BUDGET"  # how many times as much is allowed, of all below
ELEMENTS = 1_000_000  # instructions of a pickle, and the items that are copied while it is read
PICKLE = 2**26  # bytes of a pickle, which has no numbers of tensors
HEADER = 2**24  # bytes of the header of a .safetensors, and of a zip's table of contents
TENSORS = 20_000
NAME = 1000  # characters of a tensor's name, with the keys that lead to it
UNUSED = 2**28  # bytes of a storage that is read that belong to no tensor
UNPACKED = 2**29  # bytes that a compressed .npz may unpack to, whatever its own size


class NotPlain(Exception):
    """Why a file of weights is not read, told as the end of a sentence that begins with the file's name."""


def allowed(amount: int) -> int:
    """Give how much of something is allowed: `amount`, or as many times that as the environment says.

    Raises:
      UserError: what the environment says is no number.
    """
    factor = os.environ.get(VARIABLE, "1")
    try:
        return int(amount * float(factor))
    except (ValueError, OverflowError) as error:
        raise UserError(f"{VARIABLE}={factor!r} should be a number, such as 10 for ten times the budget.") from error


def require(asked: int, amount: int, what: str) -> None:
    """Refuse what asks for more than is allowed of `what`.

    Raises:
      NotPlain: it does.
    """
    if asked > (limit := allowed(amount)):
        raise exceeded(limit, what)


def exceeded(limit: int, what: str) -> NotPlain:
    """Tell that there is more of `what` than the limit."""
    return NotPlain(
        f"asks for more than {limit:,} {what}, which weights do not need; if you trust it, {VARIABLE}=10 in the "
        "environment allows ten times as much."
    )

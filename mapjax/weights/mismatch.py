"""Names of tensors in messages: escaped, counted, and with the nearest that there are."""

import difflib
from collections.abc import Iterable, Sequence

from mapjax.weights.stored import shown

_LOOKED_AT = 2000  # names, and characters of one: comparing texts takes their lengths' product
_LONG = 120
_SHOWN = 2


def nearest(name: str, names: Iterable[str]) -> str:
    """Return " Did you mean 'a' or 'b'?" for the names most like one; "" where none is."""
    short = [other for other in names if len(other) <= _LONG][:_LOOKED_AT]
    close = difflib.get_close_matches(name[:_LONG], short, n=2, cutoff=0.5)
    return f" Did you mean {' or '.join(map(shown, close))}?" if close else ""


def more(names: Sequence[str]) -> str:
    """Tell of the names after the first: ", nor 12 more, as 'b' and 'c'"; "" where there is one only."""
    if len(names) < 2:
        return ""
    return f", nor for {len(names) - 1} more, as {' and '.join(map(shown, names[1 : 1 + _SHOWN]))}"

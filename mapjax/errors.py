"""A person's mistake, told in one sentence.

`UserError` is for everything a user can mend: a misspelt key, a missing folder, a broken file. Its message
names the file or key, what is wrong with it, and the mend. `mapjax` prints it without a traceback
(`--traceback` shows one); every other exception is a bug of ours and keeps its traceback.
"""

import difflib
import re
from collections.abc import Iterable

LONGEST, END = 1500, 300  # letters of a sentence, whatever names are in it, and of the end of a longer one
_CONTROLS = re.compile("[\0-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def printable(text: str, keep: str = "") -> str:
    """Escape what steers a terminal, or turns the direction of a line, but for the letters of `keep`.

    Example:
      >>> from mapjax import errors
      >>> errors.printable("a\\x1b[31m")
      'a\\\\x1b[31m'
    """
    return _CONTROLS.sub(lambda found: found[0] if found[0] in keep else _escape(found[0]), text)


def _escape(letter: str) -> str:
    return letter.encode("unicode_escape").decode("ascii")


class UserError(Exception):
    """One clear sentence for a mistake that the user can mend.

    Example:
      >>> import mapjax
      >>> from mapjax.config import load
      >>> try:
      ...     load.load("clasify")
      ... except mapjax.UserError as error:
      ...     print(error)
      --config clasify: there is no such file. Did you mean 'classify'?
    """

    def __str__(self) -> str:
        """Give the sentence, in which names from files are harmless."""
        text = printable(super().__str__())
        return text if len(text) <= LONGEST else f"{text[: LONGEST - END]} … {text[-END:]}"


class NoSuchSplit(UserError):
    """The data set has no split of that name."""


def near(word: object, known: Iterable[str]) -> str:
    """Return " Did you mean 'a' or 'b'?" for the names closest to `word`, else the list of all known names."""
    names = sorted(str(name) for name in known)
    close = difflib.get_close_matches(str(word), names, n=3, cutoff=0.5)
    if close:
        return f" Did you mean {' or '.join(repr(name) for name in close)}?"
    return f" Known: {', '.join(names)}." if names else ""

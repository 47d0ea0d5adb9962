"""A person's mistake, told in one sentence.

`UserError` is for everything a user can mend: a misspelt key, a missing folder, a broken file. Its message
names the file or key, what is wrong with it, and the mend. `mapjax` prints it without a traceback
(`--traceback` shows one); every other exception is a bug of ours and keeps its traceback.
"""

import difflib
from collections.abc import Iterable


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


class NoSuchSplit(UserError):
    """The data set has no split of that name."""


def near(word: object, known: Iterable[str]) -> str:
    """Return " Did you mean 'a' or 'b'?" for the names closest to `word`, else the list of all known names."""
    names = sorted(str(name) for name in known)
    close = difflib.get_close_matches(str(word), names, n=3, cutoff=0.5)
    if close:
        return f" Did you mean {' or '.join(repr(name) for name in close)}?"
    return f" Known: {', '.join(names)}." if names else ""

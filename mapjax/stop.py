"""Leaving cleanly: SIGTERM and Ctrl-C ask the loop to save and stop; a second Ctrl-C stops at once.

Of several processes one may be asked and all must stop after the same step: JAX has caught SIGTERM since
`distributed.start`, spreads the word, and lets the processes agree on a step that none of them has passed.
"""

import os
import signal
import threading
from types import FrameType


class Stop:
    """While open, a first SIGTERM or SIGINT only sets `signal`; the loop sees it after the step at hand.

    Args:
      together: the processes agree on the step, by JAX.
    """

    def __init__(self, *, together: bool = False) -> None:
        self.signal: int | None = None
        self._together = together
        self._before: dict[int, object] = {}

    def __enter__(self) -> "Stop":
        """Take over the two signals (in the main thread; elsewhere nothing changes)."""
        if threading.current_thread() is threading.main_thread():
            numbers = (signal.SIGINT,) if self._together else (signal.SIGTERM, signal.SIGINT)
            self._before = {number: signal.signal(number, self._ask) for number in numbers}
        return self

    def __exit__(self, *_: object) -> None:
        """Give the signals back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def __bool__(self) -> bool:
        """Say whether a signal asks to leave."""
        return self.signal is not None

    def after(self, step: int) -> bool:
        """Say whether to leave after `step`; with `together`, all processes ask after every step and hear the same."""
        if self._together:
            from jax.experimental import multihost_utils

            if multihost_utils.reached_preemption_sync_point(step):
                self.signal = signal.SIGTERM
                return True
            return False
        return bool(self)

    def _ask(self, number: int, _: FrameType | None) -> None:
        if self.signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = number
        if self._together:
            os.kill(os.getpid(), signal.SIGTERM)  # JAX tells the others

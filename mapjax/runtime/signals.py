"""Leaving cleanly: SIGTERM, SIGHUP and Ctrl-C ask the loop to save and stop; a second Ctrl-C stops at once.

Of several processes one may be asked and all must stop after the same step: JAX has caught SIGTERM since
`distributed.start`, spreads the word, and lets the processes agree on a step that none of them has passed. That is how
the notices of clusters arrive too: SLURM sends SIGTERM by --signal and before a preemption, Kubernetes before it takes
a pod away, and a TPU VM that is preempted or maintained shuts down, which sends SIGTERM and then SIGHUP.
"""

import os
import signal
import threading
from types import FrameType

HANGUP = getattr(signal, "SIGHUP", None)  # Windows has none
_early: list[int] = []  # signals that came before the loop


def remember(number: int) -> None:
    """Note a signal that came before the loop: the exception that it raises there may be lost in a library's own."""
    _early.append(number)


class Stop:
    """While open, a first SIGTERM, SIGHUP or SIGINT only sets `signal`; the loop sees it after the step at hand.

    Args:
      together: the processes agree on the step, by JAX; also where one process alone has joined its service, for JAX
        catches SIGTERM there, and knows of one that came before the loop began.
    """

    def __init__(self, *, together: bool = False) -> None:
        self.signal: int | None = None
        self._together = together
        self._asked = 0  # how often `after` was called
        self._before: dict[int, object] = {}

    def __enter__(self) -> "Stop":
        """Take over the signals (in the main thread; elsewhere nothing changes)."""
        if threading.current_thread() is threading.main_thread():
            numbers = [signal.SIGINT] if self._together else [signal.SIGTERM, signal.SIGINT]
            if HANGUP is not None and signal.getsignal(HANGUP) is not signal.SIG_IGN:  # as nohup leaves it
                numbers.append(HANGUP)
            self._before = {number: signal.signal(number, self._ask) for number in numbers}
        if _early:
            self._ask(_early[-1], None)
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
        if not self._together:
            return bool(self)
        from jax.experimental import multihost_utils

        # Not `step`: JAX takes a process that has not asked yet to be at 0, settles on the number after the highest,
        # and answers at no other. A run that goes on from step 500 would never come to 1.
        del step
        self._asked += 1
        if multihost_utils.reached_preemption_sync_point(self._asked):
            self.signal = signal.SIGTERM
            return True
        return False

    def _ask(self, number: int, _: FrameType | None) -> None:
        if self.signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = number
        if self._together:
            os.kill(os.getpid(), signal.SIGTERM)  # JAX tells the others

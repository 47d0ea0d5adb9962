"""Leaving cleanly: SIGTERM and Ctrl-C ask the loop to save and stop; a second Ctrl-C stops at once."""

import signal
import threading
from types import FrameType


class Stop:
    """While open, a first SIGTERM or SIGINT only sets `signal`; the loop sees it after the step at hand."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self._before: dict[int, object] = {}

    def __enter__(self) -> "Stop":
        """Take over the two signals (in the main thread; elsewhere nothing changes)."""
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._ask) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_: object) -> None:
        """Give the signals back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def __bool__(self) -> bool:
        """Say whether a signal asks to leave."""
        return self.signal is not None

    def _ask(self, number: int, _: FrameType | None) -> None:
        if self.signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = number

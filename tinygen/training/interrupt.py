"""Ctrl-C and a request to end (SIGTERM) as a flag that the training loop looks at between two steps."""

from __future__ import annotations

import signal
import threading
from types import FrameType


class Interrupted(Exception):  # noqa: N818 - a way to stop, no error
    """Training stopped because of `signal`, after everything was saved."""

    def __init__(self, number: int):
        super().__init__(signal.Signals(number).name)
        self.signal = number


class Interruptions:
    """Context in which the first SIGINT or SIGTERM only sets `received`; a second one acts as it always does."""

    def __enter__(self) -> Interruptions:
        self.received: int | None = None
        self._before = {}
        if threading.current_thread() is threading.main_thread():  # elsewhere Python allows no handlers
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def __exit__(self, *exception: object) -> None:
        self._restore()

    def check(self) -> None:
        """Raise Interrupted if a signal came."""
        if self.received is not None:
            raise Interrupted(self.received)

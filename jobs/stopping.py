"""The first SIGINT or SIGTERM asks for a checkpoint and an end; the second one is not waited for."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def signals_ask() -> Iterator[threading.Event]:
    """While it lasts, the first signal sets the event instead of what it did before; the second does that again.

    In a thread that is not the main one, which can take no signals, the event stays unset.
    """
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = {number: signal.getsignal(number) for number in _SIGNALS}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def ask(number: int, frame: Any) -> None:
        restore()
        asked.set()
        print("stopping with a checkpoint; a second signal stops at once", file=sys.stderr, flush=True)

    for number in _SIGNALS:
        signal.signal(number, ask)
    try:
        yield asked
    finally:
        if not asked.is_set():
            restore()

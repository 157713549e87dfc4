"""How lines and a final error of the workers reach the driver's terminal: a small actor, and a thread that asks it."""

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import ray

from jobs.errors import UnavailableError

_POLL_SECONDS = 1.0  # how often the driver asks for new lines; on a machine that trains, each question costs the step
_PATIENCE = 10  # questions to an actor that is out of reach


class Console:
    """Passes lines and a final error from the workers to the driver, on whatever node they are."""

    def __init__(self) -> None:
        """Starts empty."""
        self._lines: list[str] = []
        self._failure: Exception | None = None
        self._missed: Exception | None = None
        self._stopping = False
        self._progress: list[Any] = []

    def measure(self, progress: Any) -> None:
        """Adds an evaluation."""
        self._progress.append(progress)

    def measured(self) -> list[Any]:
        """The evaluations since the last call."""
        progress, self._progress = self._progress, []
        return progress

    def stop(self) -> None:
        """Tells the workers to save and end."""
        self._stopping = True

    def stopping(self) -> bool:
        """Whether `stop` was called."""
        return self._stopping

    def write(self, line: str) -> None:
        """Adds a line."""
        self._lines.append(line)

    def read(self) -> list[str]:
        """The lines since the last call."""
        lines, self._lines = self._lines, []
        return lines

    def fail(self, error: Exception) -> None:
        """Keeps the first error that a retry cannot mend."""
        self._failure = self._failure or error

    def miss(self, error: Exception) -> None:
        """Keeps the newest error of something that did not answer, which it may the next time."""
        self._missed = error

    def missed(self) -> Exception | None:
        """That error, or None."""
        return self._missed

    def failure(self) -> Exception | None:
        """The error kept, or None."""
        return self._failure


def ask(question: Any) -> Any:
    """The answer of a console's actor.

    Args:
        question: a method of the actor.

    Raises:
        UnavailableError: it ended, and with it all that the workers could say.
    """
    for _ in range(_PATIENCE):
        try:
            return ray.get(question.remote())
        except ray.exceptions.ActorUnavailableError as error:  # its connection broke, or it is about to end
            lost: Exception = error
            time.sleep(_POLL_SECONDS)
        except ray.exceptions.RayError as error:  # the kernel and Ray end processes where memory is short
            lost = error
            break
    raise UnavailableError(
        f"the actor that passes the workers' lines on has ended; the same command resumes ({str(lost).splitlines()[0]})"
    ) from lost


class Printer:
    """Prints the console's lines until it is stopped."""

    def __init__(self, console: Any, say: Callable[[str], Any]) -> None:
        """Starts handing `say` what the actor `console` collects."""
        self._console, self._say, self._done = console, say, threading.Event()
        self._failed: Exception | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            while not self._done.wait(_POLL_SECONDS):
                self._print()
        except Exception as error:  # raised again in the main thread
            self._failed = error

    def check(self) -> None:
        """Raises what its thread met: an UnavailableError, or an error of `say`."""
        if self._failed:
            raise self._failed

    def _print(self) -> None:
        for line in ask(self._console.read):
            self._say(line)

    def stop(self) -> None:
        """Prints the last lines and ends."""
        self._done.set()
        self._thread.join()
        with suppress(UnavailableError):  # whatever ended the run may have ended the console as well
            self._print()

"""How lines, evaluations and a final error of the workers reach the driver, and its wish to stop reaches them.

All of it lies in the key-value table of Ray's head, which every process of a cluster reaches. An actor would be one
more process, and each of Ray's wakes a hundred times a second on a machine that trains.
"""

import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import ray
from ray import cloudpickle
from ray.experimental import internal_kv

from jobs.errors import UnavailableError

_POLL_SECONDS = 1.0  # how often the driver asks for news; on a machine that trains, each question costs the step
_ANSWER_SECONDS = 30.0  # within which Ray's head answers a question
_NAMESPACE = b"semisup"


class Console:
    """What the workers of one group and their driver leave for each other, on whatever nodes they are.

    Every method raises an UnavailableError while Ray's head does not answer.
    """

    def __init__(self) -> None:
        """Starts empty; the workers get a copy."""
        self._name = uuid.uuid4().hex

    def write(self, line: str) -> None:
        """Leaves a line."""
        self._leave("news", line)

    def measure(self, progress: Any) -> None:
        """Leaves an evaluation."""
        self._leave("news", progress)

    def read(self) -> Iterator[Any]:
        """Lines and evaluations that nobody has taken yet, oldest first; each is gone once it is handed on."""
        for key in sorted(_ask("keys", self._key("news"))):
            value = _ask("get", key)
            _ask("del", key, False)
            yield cloudpickle.loads(value)

    def stop(self) -> None:
        """Tells the workers to save and end."""
        self._keep("stop", True)

    def stopping(self) -> bool:
        """Whether `stop` was called."""
        return _ask("exists", self._key("stop"))

    def fail(self, error: Exception) -> None:
        """Keeps the first error that a retry cannot mend."""
        self._keep("failure", error, newest=False)

    def failure(self) -> Exception | None:
        """That error, or None."""
        return self._kept("failure")

    def miss(self, error: Exception) -> None:
        """Keeps the newest error of something that did not answer, which it may the next time."""
        self._keep("missed", error)

    def missed(self) -> Exception | None:
        """That error, or None."""
        return self._kept("missed")

    def clear(self) -> None:
        """Removes all of it."""
        _ask("del", self._key(""), True)

    def _leave(self, kind: str, value: Any) -> None:
        self._keep(f"{kind}:{time.time_ns():020d}:{uuid.uuid4().hex}", value)

    def _keep(self, kind: str, value: Any, newest: bool = True) -> None:
        _ask("put", self._key(kind), cloudpickle.dumps(value), newest)

    def _kept(self, kind: str) -> Any:
        value = _ask("get", self._key(kind))
        return None if value is None else cloudpickle.loads(value)

    def _key(self, kind: str) -> bytes:
        return f"{self._name}:{kind}".encode()


def _ask(what: str, *words: Any) -> Any:
    question = getattr(internal_kv.internal_kv_get_gcs_client(), f"internal_kv_{what}")
    try:
        return question(*words, namespace=_NAMESPACE, timeout=_ANSWER_SECONDS)
    except ray.exceptions.RayError as error:
        raise UnavailableError(
            f"Ray's head does not answer; the same command resumes ({str(error).splitlines()[0]})"
        ) from error


class Listener:
    """Hands on what comes to the console until it is stopped."""

    def __init__(self, console: Console, say: Callable[[str], Any]) -> None:
        """Starts handing `say` the lines.

        Args:
            console: of the workers.
            say: takes a line.
        """
        self._console, self._say, self._done = console, say, threading.Event()
        self._measured: list[Any] = []
        self._lock = threading.RLock()  # news are read once, and said in order
        self._failed: Exception | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            while not self._done.wait(_POLL_SECONDS):
                self._hand_on()
        except Exception as error:  # raised again in the main thread
            self._failed = error

    def check(self) -> None:
        """Raises what its thread met: an error of `say`."""
        if self._failed:
            raise self._failed

    def measured(self) -> list[Any]:
        """The evaluations since the last call, up to now."""
        with self._lock:
            self._hand_on()
            measured, self._measured = self._measured, []
        return measured

    def _hand_on(self) -> None:
        with self._lock, suppress(UnavailableError):  # asked again; without its head, Ray ends this process
            for each in self._console.read():
                if isinstance(each, str):
                    self._say(each)
                else:
                    self._measured.append(each)

    def stop(self) -> None:
        """Hands on what came last, and ends."""
        self._done.set()
        self._thread.join()
        self._hand_on()

"""One attempt at a run at a time: a lease that the driver renews, and an id that a worker checks before it commits.

Where the kernel can lock the file beside the lease, it says at once whether the owner lives. Anywhere else an owner is
believed dead when it has not renewed its lease for a minute. No object store here can compare and set, so two drivers
that begin within the same second may both believe that they won; whichever wrote first finds out at its next commit.
"""

import fcntl
import json
import os
import platform
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from jobs.errors import ConfigError, SupersededError, UnavailableError
from jobs.storage import FolderStorage, Storage

_RENEWED_SECONDS = 15.0
_DEAD_SECONDS = 60.0  # without a renewal
_READINGS, _READ_AGAIN_SECONDS = 5, 0.2
_SETTLED_SECONDS = 1.0  # after which two that begin at once see in an object store who wrote last


class Lease:
    """The lease of one run.

    Attributes:
        name: of the run, or of the search that its trials belong to.
        attempt: the id of this process' attempt at the run, or None when it only looks on.
    """

    def __init__(self, storage: Storage, name: str, attempt: str | None = None) -> None:
        """Keeps the place; asks nobody.

        Args:
            storage: of the run.
            name: of the run.
            attempt: that this process works for.
        """
        self.attempt = attempt
        self.name, self._storage = name, storage
        self._file = storage.root / ".leases" / f"{name}.json"
        self._here = ""

    def check(self) -> None:
        """Checks that this process still works for the run's attempt; call before anything in the storage changes.

        Raises:
            SupersededError: another attempt has taken the run over.
            UnavailableError: the storage does not answer.
        """
        owner = self._owner() if self.attempt else None
        if self.attempt and (owner or {}).get("attempt") != self.attempt:
            by = f"by {_described(owner)}" if owner else "or it was stopped"
            raise SupersededError(f"{self._storage.url}/{self.name}: this attempt was taken over {by}; it ends here")

    @contextmanager
    def held(self, say: Callable[[str], Any]) -> Iterator[None]:
        """Takes the lease, renews it beside what happens inside, and gives it back.

        Args:
            say: prints a line to the user.

        Raises:
            ConfigError: another attempt is alive.
        """
        self._file.parent.mkdir(parents=True, exist_ok=True)
        with open(self._file.with_suffix(".lock"), "w") as lock:
            self._here = _machine(lock)
            self._take(lock, say)
            done = threading.Event()
            renewing = threading.Thread(target=self._renew, args=(done,), name="lease", daemon=True)
            renewing.start()
            try:
                yield
            finally:
                done.set()
                renewing.join()
                with suppress(UnavailableError, OSError):  # it will be found dead
                    if (self._owner() or {}).get("attempt") == self.attempt:
                        self._storage.remove(self._file)

    def _take(self, lock: IO[str], say: Callable[[str], Any]) -> None:
        locked, owner = _locked(lock), self._owner()
        if locked is False or (owner and not (locked and owner["machine"] == self._here) and self._alive(owner, say)):
            raise ConfigError(
                f"name: {self._storage.url}/{self.name} is being trained by {_described(owner)}; expected one attempt "
                "at a time; wait for it, stop it, or give this run another name"
            )
        self.attempt = uuid.uuid4().hex
        self._write()
        if not isinstance(self._storage, FolderStorage):
            time.sleep(_SETTLED_SECONDS)
        self.check()

    def _alive(self, owner: dict[str, Any], say: Callable[[str], Any]) -> bool:
        """Whether an owner that no lock tells about renews its lease."""
        say(f"{self.name}: has a lease of {_described(owner)}; waiting up to {_DEAD_SECONDS:.0f} s for a sign of life")
        until = time.monotonic() + _DEAD_SECONDS
        while time.monotonic() < until:
            time.sleep(min(1.0, _DEAD_SECONDS / 10))
            now = self._owner()
            if now != owner:
                return now is not None
        say(f"{self.name}: no sign of life; taking the run over")
        return False

    def _renew(self, done: threading.Event) -> None:
        while not done.wait(_RENEWED_SECONDS):
            with suppress(UnavailableError, OSError):  # the next one may get through
                if (self._owner() or {}).get("attempt") != self.attempt:
                    return  # workers end at their next commit
                self._write()

    def _owner(self) -> dict[str, Any] | None:
        for _ in range(_READINGS):
            try:
                return json.loads(self._storage.read(self._file) or b"null")
            except ValueError:  # read while it was renewed, as an object store allows; or left by a power cut
                time.sleep(_READ_AGAIN_SECONDS)
        return None

    def _write(self) -> None:
        facts = {"attempt": self.attempt, "machine": self._here, "host": platform.node(), "pid": os.getpid()}
        self._storage.write(self._file, json.dumps({**facts, "renewed": f"{time.time():.3f}"}).encode())


def _locked(lock: IO[str]) -> bool | None:
    """Whether this process now has the lock; None where the file system cannot lock."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _machine(lock: IO[str]) -> str:
    """This machine since its start, as far as it shares the lock: where that is free, no owner lives on it."""
    boot, file = Path("/proc/sys/kernel/random/boot_id"), os.fstat(lock.fileno())
    return f"{platform.node()} {boot.read_text().strip() if boot.exists() else ''} {file.st_dev}:{file.st_ino}"


def _described(owner: dict[str, Any] | None) -> str:
    return f"process {owner['pid']} on {owner['host']}" if owner else "another process"

"""Ends a process whose worker hangs, and leaves what all its threads did."""

import faulthandler
import os
import platform
from pathlib import Path


class Watchdog:
    """A limit that is set anew before everything that may take long."""

    def __init__(self, hang_seconds: float, stacks: Path, worker: str) -> None:
        """Makes the file that stays empty unless the time is over.

        Args:
            hang_seconds: the usual limit.
            stacks: folder for what every thread did when the time was over.
            worker: what the file's name calls this worker.
        """
        self._hang_seconds = hang_seconds
        stacks.mkdir(parents=True, exist_ok=True)
        self._stacks = stacks / f"{worker}-{platform.node()}-{os.getpid()}.txt"
        self._out = open(self._stacks, "w")  # noqa: SIM115  faulthandler writes to it until `end`

    def watch(self, patience: float) -> None:
        """Ends the process when this is not called again in time, by a thread that needs no interpreter.

        Args:
            patience: times the usual limit.
        """
        faulthandler.dump_traceback_later(self._hang_seconds * patience, exit=True, file=self._out)

    def rest(self) -> None:
        """From now on, until `watch` is called again, nothing that takes long ends the process."""
        faulthandler.cancel_dump_traceback_later()

    def end(self) -> None:
        """Stops watching for good."""
        self.rest()
        self._out.close()
        self._stacks.unlink(missing_ok=True)

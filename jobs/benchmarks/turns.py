"""Real runs of `jobs.train` that train in turns, so that they are measured within the same minutes."""

import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import psutil

from jobs.benchmarks.runs import command_for, read_epochs
from jobs.errors import TrainingError
from jobs.schema import RunConfig

_ENDLESS = 1_000_000  # epochs
_POLL_SECONDS = 0.2


class RunInTurns:
    """A run whose processes, Ray's too, are stopped (SIGSTOP) whenever it is not its turn.

    Others' turns last longer than its epochs: by the epoch that a pause made longer, two turns are told apart.
    Whoever makes one ends it, whatever happens: only a process that goes on can be ended by a usual signal.
    """

    def __init__(self, config: RunConfig, *words: str, steps: int) -> None:
        """Starts it, and waits for the end of its first epoch.

        Args:
            config: the run; its storage gets one folder more.
            *words: overrides.
            steps: of an epoch, which should be several times shorter than a turn.

        Raises:
            TrainingError: it failed; what it printed last.
        """
        self._command, self._folder = command_for(config, words, steps, _ENDLESS)
        self._output = Path(f"{self._folder}.txt")
        self._pauses: list[float] = []
        self._beside: list[float] = []
        with self._output.open("w") as output:
            self._process = psutil.Popen(self._command, stdout=output, stderr=subprocess.STDOUT)
        try:
            while "images/s" not in self._printed():
                time.sleep(_POLL_SECONDS)
        except BaseException:
            self.end()
            raise
        self._send(signal.SIGSTOP)
        self._stopped = time.perf_counter()

    def turn(self, seconds: float) -> None:
        """Lets it train for so long.

        Raises:
            TrainingError: it failed; what it printed last.
        """
        self._printed()
        before, begun = self._seconds_beside(), time.perf_counter()
        self._send(signal.SIGCONT)
        time.sleep(seconds)
        self._send(signal.SIGSTOP)
        self._pauses.append(begun - self._stopped)
        self._stopped = time.perf_counter()
        self._beside.append((self._seconds_beside() - before) / (self._stopped - begun))

    def beside(self) -> list[float]:
        """Of each turn, the cores taken by all of its processes but the one that trains: the driver and Ray's."""
        return self._beside

    def end(self) -> list[list[float]]:
        """Ends it.

        Returns:
            Of each turn, the seconds of the epochs that began and ended in it. Two turns are one where the pause
            between them, by chance, fell between two epochs.
        """
        self._send(signal.SIGCONT)
        processes = self._processes()
        with suppress(psutil.NoSuchProcess):
            self._process.terminate()
        self._process.wait()
        psutil.wait_procs(processes)
        turns: list[list[float]] = [[]]
        for row in read_epochs(self._folder)[1:]:  # the first compiles
            if row["epoch_seconds"] > min(self._pauses, default=0.0):
                turns.append([])  # it lasted from one turn to the next
            else:
                turns[-1].append(row["epoch_seconds"])
        return turns[1 : len(self._pauses) + 1]

    def _printed(self) -> str:
        printed = self._output.read_text()
        if self._process.poll() is not None:
            code = self._process.returncode
            raise TrainingError(f"{' '.join(self._command)} ended with exit code {code}:\n{printed[-2000:]}")
        return printed

    def _processes(self) -> list[psutil.Process]:
        try:
            return [*self._process.children(recursive=True), self._process]
        except psutil.NoSuchProcess:
            return []

    def _send(self, number: int) -> None:
        for process in self._processes():
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)

    def _seconds_beside(self) -> float:
        spent = []
        for process in self._processes():
            with suppress(psutil.NoSuchProcess):
                spent.append(sum(process.cpu_times()[:2]))
        return sum(spent) - max(spent, default=0.0)

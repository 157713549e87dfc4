"""What a person sees of a search while it runs: a table on a terminal, lines of change elsewhere."""

import math
import sys
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from jobs.text import columns, duration

_DRAW_SECONDS = 2.0
_LINE_SECONDS = 30.0  # a sign of life where nothing can be drawn again
_MOST_ROWS = 24
_ENDED = ("finished", "stopped", "failed")


class Row(NamedTuple):
    """One trial.

    Attributes:
        trial: its name.
        values: dotted key -> value.
        state: waiting, running, paused, finished, stopped (by the scheduler) or failed.
        epoch: reached.
        objective: validation accuracy of the epoch that is kept, or None before the first evaluation.
        seconds: of its process.
        ended: time of its last evaluation, as of `time.time()`, or None.
        error: the last line of what made it fail.
    """

    trial: str
    values: dict[str, Any]
    state: str
    epoch: int = 0
    objective: float | None = None
    seconds: float = 0.0
    ended: float | None = None
    error: str = ""


def best_first(rows: Sequence[Row]) -> list[Row]:
    """Trials that did not fail by their objective, the earlier of two equals first; then the others."""
    return sorted(rows, key=lambda row: (row.state == "failed", -(row.objective or -1.0), row.trial))


def standard_error(accuracy: float, images: int) -> float:
    """Of an accuracy over so many images (binomial)."""
    return math.sqrt(accuracy * (1 - accuracy) / images)


def value_text(value: Any) -> str:
    """A sampled value in four digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def short_names(keys: Sequence[str]) -> dict[str, str]:
    """Keys by their last word where that tells them apart."""
    last = [key.rsplit(".", 1)[-1] for key in keys]
    return {key: word if last.count(word) == 1 else key for key, word in zip(keys, last, strict=True)}


def table(rows: Sequence[Row], images: int, most: int | None = None) -> list[str]:
    """Lines of the trials, in the order given.

    Args:
        rows: the trials.
        images: of validation, for the standard error.
        most: rows to show.
    """
    names = short_names([*rows[0].values]) if rows else {}
    cells = [["trial", *names.values(), "epoch", "validation", "s.e.", "seconds", "state"]]
    for row in rows[:most]:
        measured = ["-", "-"]
        if row.objective is not None:
            measured = [f"{row.objective:.4f}", f"{standard_error(row.objective, images):.4f}"]
        values = [value_text(row.values.get(key)) for key in names]
        state = f"{row.state}: {row.error}"[:90] if row.error else row.state
        cells.append([row.trial.split("-")[0], *values, str(row.epoch), *measured, f"{row.seconds:.0f}", state])
    lines = columns(cells, left=(0, len(cells[0]) - 1))
    hidden = len(rows) - len(cells) + 1
    return [*lines, f"  … {hidden} more"] if hidden else lines


class LiveTable:
    """Draws the table anew where that is possible, and else says what changed."""

    def __init__(self, trials: int, epochs: int, images: int) -> None:
        """Begins with no trial.

        Args:
            trials: of the search.
            epochs: of one trial.
            images: of validation.
        """
        self._trials, self._epochs, self._images = trials, epochs, images
        self._begun, self._shown_at, self._lines = time.monotonic(), 0.0, 0
        self._states: dict[str, str] = {}
        self._at_first: float | None = None

    def show(self, rows: Sequence[Row]) -> None:
        """Shows the trials if it is time; whoever holds the loop calls this often."""
        now, drawn = time.monotonic(), sys.stdout.isatty()
        if drawn and now - self._shown_at < _DRAW_SECONDS:
            return
        if drawn:
            self._draw([*table(best_first(rows), self._images, _MOST_ROWS), self._summary(rows)])
        else:
            self._tell(rows, now)
        if drawn:
            self._shown_at = now

    def _draw(self, lines: list[str]) -> None:
        sys.stdout.write(f"\x1b[{self._lines}F\x1b[J" if self._lines else "")
        print("\n".join(lines), flush=True)
        self._lines = len(lines)

    def _tell(self, rows: Sequence[Row], now: float) -> None:
        for row in rows:
            if self._states.get(row.trial) != row.state and row.state in _ENDED:
                values = " ".join(f"{name}={value_text(row.values[key])}" for key, name in _named(row))
                reached = "" if row.objective is None else f"  validation {row.objective:.4f}"
                why = f": {row.error}" if row.error else ""
                print(
                    f"{row.trial.split('-')[0]}  {values}  epoch {row.epoch}{reached}  {row.seconds:.0f} s  "
                    f"{row.state}{why}",
                    flush=True,
                )
                self._shown_at = 0.0
            self._states[row.trial] = row.state
        if now - self._shown_at >= _LINE_SECONDS:
            self._shown_at = now
            print(self._summary(rows), flush=True)

    def _summary(self, rows: Sequence[Row]) -> str:
        """Where the search is, and how long it may take."""
        ended = [row for row in rows if row.state in _ENDED]
        done = (len(ended) + sum(row.epoch / self._epochs for row in rows if row not in ended)) / self._trials
        self._at_first = done if self._at_first is None else self._at_first  # of a search that goes on
        gained, elapsed = done - self._at_first, time.monotonic() - self._begun
        left = f"  left {duration(elapsed * (1 - done) / gained)}" if gained > 0 else ""
        best = max((row.objective for row in rows if row.objective is not None), default=None)
        reached = "" if best is None else f"  best validation {best:.4f} ± {standard_error(best, self._images):.4f}"
        running = sum(row.state == "running" for row in rows)
        return f"{len(ended)} of {self._trials} trials ended, {running} running{reached}{left}"


def _named(row: Row) -> list[tuple[str, str]]:
    return list(short_names([*row.values]).items())

"""Which epoch's weights are kept: the best by validation, and when to stop waiting for a better one."""

from dataclasses import dataclass
from typing import Any


@dataclass
class Selection:
    """The best evaluation so far by the monitored validation accuracy; a tie goes to the later one."""

    monitor: str
    step: int | None = None
    value: float = -1.0
    evaluations_since: int = 0

    def consider(self, step: int, value: float) -> None:
        """Takes note of an evaluation."""
        self.evaluations_since = 0 if value > self.value else self.evaluations_since + 1
        if value >= self.value:
            self.step, self.value = step, value


def restored_selection(meta: dict[str, Any] | None, monitor: str) -> Selection:
    """The selection of a checkpoint, unless it compared another protocol's numbers."""
    if meta is None or meta["selection"]["monitor"] != monitor:
        return Selection(monitor)
    return Selection(**meta["selection"])


def patience_used_up(selection: Selection, patience: int | None) -> str | None:
    """Why to stop early, or None.

    Args:
        selection: so far.
        patience: evaluations without a better one after which to stop, or None for never.
    """
    if not patience or selection.evaluations_since < patience:
        return None
    return f"no better validation {selection.monitor} for {patience} evaluations"

"""What a search may vary: one range or list of values a key."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jobs.errors import ConfigError
from semisup_core.settings import nearest

# How many numbers a range takes; lists of values take any.
_RANGES = {"uniform": 2, "loguniform": 2, "quniform": 3, "randint": 2}
_LISTS = ("choice", "grid")
KINDS = (*_RANGES, *_LISTS)


@dataclass(frozen=True)
class Dimension:
    """One searched key.

    Attributes:
        key: dotted, of the configuration.
        kind: one of `KINDS`.
        values: low, high (randint: both are drawn), step of quniform; or the values of a list.
    """

    key: str
    kind: str
    values: tuple[Any, ...]

    @property
    def extremes(self) -> tuple[Any, ...]:
        """Both ends, or the whole list."""
        return self.values if self.kind in _LISTS else self.values[:2]

    @property
    def to_check(self) -> tuple[Any, ...]:
        """Values of which all must be valid for every other value to be: of fractions, one more than the ends."""
        low, *rest = self.values
        if self.kind in ("uniform", "loguniform"):
            return (*self.extremes, low + (rest[0] - low) / math.e)
        return (*self.extremes, low + rest[1]) if self.kind == "quniform" else self.extremes

    def domain(self) -> Any:
        """Ray Tune's form of it."""
        from ray import tune

        if self.kind == "randint":
            return tune.randint(self.values[0], self.values[1] + 1)  # Tune leaves the upper end out
        if self.kind == "quniform" and all(isinstance(value, int) for value in self.values):
            return tune.qrandint(*self.values)
        if self.kind in _LISTS:
            return tune.choice(list(self.values)) if self.kind == "choice" else tune.grid_search(list(self.values))
        return getattr(tune, self.kind)(*self.values)

    def clamped(self, value: Any) -> Any:
        """The nearest value within the range and on its steps."""
        if self.kind in _LISTS:
            return value
        if self.kind == "quniform":
            value = round(value / self.values[2]) * self.values[2]
        return min(max(value, self.values[0]), self.values[1])


def dimension(key: str, given: Any) -> Dimension:
    """Reads one entry of `search.space`.

    Args:
        key: dotted.
        given: {KIND: [values]}, as YAML has it.

    Raises:
        ConfigError: another form, or an empty or impossible range.
    """
    where = f"search.space.{key}"
    if not isinstance(given, dict) or len(given) != 1 or not isinstance(next(iter(given.values())), Sequence):
        raise ConfigError(f"{where}: expected {{KIND: [values]}}, as in {{uniform: [0, 2]}}; got {given!r}")
    kind, values = next(iter(given.items()))
    if kind not in KINDS:
        raise ConfigError(f"{where}: expected one of {', '.join(KINDS)}; got {kind!r}{nearest(str(kind), KINDS)}")
    if isinstance(values, str):
        raise ConfigError(f"{where}: expected a list of values, got {values!r}")
    _check(where, kind, values)
    return Dimension(key, kind, tuple(tuple(value) if isinstance(value, list) else value for value in values))


def _check(where: str, kind: str, values: Sequence[Any]) -> None:
    if kind in _LISTS:
        if not values or len({repr(value) for value in values}) < len(values):
            raise ConfigError(f"{where}: expected a list of different values, got {list(values)}")
        return
    words = "[low, high, step]" if kind == "quniform" else "[low, high]"
    if len(values) != _RANGES[kind] or not all(_is_number(value) for value in values):
        raise ConfigError(f"{where}: {kind} expects {words}, finite numbers, got {list(values)}")
    low, high = values[:2]
    if low >= high:
        raise ConfigError(f"{where}: expected low < high, got {list(values)}")
    if kind == "loguniform" and low <= 0:
        raise ConfigError(f"{where}: loguniform expects a low end above 0, got {low}")
    if kind == "randint" and not all(isinstance(value, int) for value in values):
        raise ConfigError(f"{where}: randint expects whole numbers, got {list(values)}")
    if kind == "quniform":
        step = values[2]
        if step <= 0 or step > high - low or any(abs(end / step - round(end / step)) > 1e-9 for end in (low, high)):
            raise ConfigError(f"{where}: quniform expects ends that are multiples of the step, got {list(values)}")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)

"""Settings as frozen dataclasses whose fields carry their own range; imports nothing heavy.

A settings class derives from `Settings` and declares each field with `setting(default, above=0)`, so a bad value is
refused wherever the object is made: from a file, a command line or a test.
"""

import dataclasses
import difflib
import math
from collections.abc import Iterable
from typing import Any

_RULES = {
    "above": (lambda value, limit: value > limit, "above"),
    "at_least": (lambda value, limit: value >= limit, "at least"),
    "below": (lambda value, limit: value < limit, "below"),
    "at_most": (lambda value, limit: value <= limit, "at most"),
}


def setting(default: Any, **rules: Any) -> Any:
    """A dataclass field with a range.

    Args:
        default: the default; a list or tuple becomes an immutable tuple.
        **rules: any of above, at_least, below, at_most (numbers, checked element by element in a tuple),
            one_of (a tuple of names) and or_words (names that are allowed instead of a number).

    Returns:
        A `dataclasses.field`.
    """
    unknown = set(rules) - {*_RULES, "one_of", "or_words"}
    if unknown:
        raise TypeError(f"setting() knows above, at_least, below, at_most, one_of, or_words, not {sorted(unknown)}")
    return dataclasses.field(default=tuple(default) if isinstance(default, list) else default, metadata=rules)


@dataclasses.dataclass(frozen=True)
class Settings:
    """What every settings dataclass derives from."""

    def __post_init__(self) -> None:
        """Checks every field against its declared range.

        Raises:
            ValueError: names the field, what was expected and what came.
        """
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, list):  # OmegaConf hands tuples over as lists
                value = tuple(value)
                object.__setattr__(self, field.name, value)
            for item in value if isinstance(value, tuple) else (value,):
                _check_value(field.name, item, field.metadata)


def _check_value(name: str, value: Any, rules: Any) -> None:
    if value is None:
        return
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{name}: expected a finite number, got {value}")
    if "or_words" in rules and isinstance(value, str):
        if value not in rules["or_words"]:
            raise ValueError(f"{name}: expected a number or {' or '.join(rules['or_words'])}, got {value!r}")
        return
    if "one_of" in rules and value not in rules["one_of"]:
        raise ValueError(
            f"{name}: expected one of {', '.join(rules['one_of'])}; got {value!r}{nearest(str(value), rules['one_of'])}"
        )
    for rule, (holds, words) in _RULES.items():
        if rule in rules and not holds(value, rules[rule]):
            raise ValueError(f"{name}: expected a value {words} {rules[rule]}, got {value}")


def nearest(name: str, valid: Iterable[str]) -> str:
    """The words '; did you mean …?' for a misspelt name, or '' when nothing is close."""
    names = list(valid)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if not close:  # a right last part in a wrong section is the other common slip
        close = [other for other in names if other.rsplit(".", 1)[-1] == name.rsplit(".", 1)[-1]][:1]
    return f"; did you mean {close[0]}?" if close else ""

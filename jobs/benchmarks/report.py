"""What was measured, as a table, a JSON file and pictures."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jobs.benchmarks.timing import Figure
from jobs.figure import figure_file
from jobs.storage import write_text


class Row(NamedTuple):
    """One figure.

    Attributes:
        part: of the benchmark.
        name: what was measured.
        figure: its median and interval.
        unit: of the figure; empty for a ratio.
        words: how it was measured, if the name does not say it.
    """

    part: str
    name: str
    figure: Figure
    unit: str = ""
    words: str = ""


def table(rows: Sequence[Row]) -> str:
    """One line a figure, under a line a part."""
    lines, width = [], max(len(row.name) for row in rows)
    for i, row in enumerate(rows):
        if i == 0 or rows[i - 1].part != row.part:
            lines.append(f"{row.part}")
        low, high = _number(row.figure.low), _number(row.figure.high)
        shown = f"{_number(row.figure.median):>8} {row.unit:<9} {f'[{low}, {high}]':<20}"
        lines.append(f"  {row.name:<{width}} {shown} {row.words}".rstrip())
    return "\n".join(lines)


def _number(value: float) -> str:
    """Three digits, and no exponent."""
    magnitude = abs(value)
    decimals = 0 if magnitude >= 100 else 1 if magnitude >= 10 else 2 if magnitude >= 1 else 3
    return f"{value:,.{decimals}f}"


def write_report(rows: Sequence[Row], facts: dict[str, Any], folder: Path) -> None:
    """Writes `benchmark.json`, and a PNG a part.

    Args:
        rows: of all parts.
        facts: of the machine and the configuration.
        folder: where to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    listed = [{**row._asdict(), "figure": row.figure._asdict()} for row in rows]
    write_text(folder / "benchmark.json", json.dumps({**facts, "figures": listed}, indent=1))
    for part in dict.fromkeys(row.part for row in rows):
        _draw([row for row in rows if row.part == part], folder / f"{part}.png")


def _draw(rows: Sequence[Row], path: Path) -> None:
    """A panel a unit, a bar a figure with its interval."""
    units = list(dict.fromkeys(row.unit for row in rows))
    height = 0.9 * len(units) + 0.35 * len(rows)
    with figure_file(path, (8, height), len(units)) as (_, axes):
        for axis, unit in zip(axes.ravel(), units, strict=True):
            shown = [row for row in reversed(rows) if row.unit == unit]
            medians = [row.figure.median for row in shown]
            errors = [
                [max(median - row.figure.low, 0.0) for median, row in zip(medians, shown, strict=True)],
                [max(row.figure.high - median, 0.0) for median, row in zip(medians, shown, strict=True)],
            ]
            axis.barh([row.name for row in shown], medians, xerr=errors, color="C0", capsize=3)
            axis.set_xlabel(unit or "ratio")
            axis.grid(axis="x", alpha=0.3)

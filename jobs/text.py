"""Words and columns for the terminal; imports nothing heavy."""

from collections.abc import Sequence


def duration(seconds: float) -> str:
    """Seconds in words: 42 s, 3 min 05 s, 2 h 07 min, 3 d 04 h."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60:02d} s"
    if seconds < 48 * 3600:
        return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"
    return f"{seconds // 86400} d {seconds % 86400 // 3600:02d} h"


def printable(name: str) -> str:
    """Escapes what would break a line or the terminal; class and file names may hold anything."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in name)


def columns(rows: Sequence[Sequence[str]], left: Sequence[int] = (0,), indent: str = "  ") -> list[str]:
    """Lines of a table.

    Args:
        rows: cells, the same number in each; the first row is the head.
        left: columns that are set to the left; the others are set to the right, as numbers are.
        indent: before each line.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = zip(row, widths, strict=True)
        aligned = [cell.ljust(width) if i in left else cell.rjust(width) for i, (cell, width) in enumerate(cells)]
        lines.append((indent + "  ".join(aligned)).rstrip())
    return lines


def interval_text(interval: Sequence[float] | None) -> str:
    """An interval of an accuracy, "0.953-0.986"; "-" where a result has none."""
    return f"{interval[0]:.3f}-{interval[1]:.3f}" if interval else "-"

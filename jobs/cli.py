"""What the entry points share: arguments, and exceptions as exit codes."""

import argparse
import io
import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, NoReturn

from jobs import layers
from jobs.errors import ConfigError, SupersededError, TrainingError, UnavailableError
from jobs.own_copy import remove_own_copies
from semisup_core.errors import DataError, NumericalError, StorageError
from semisup_core.settings import nearest

_OPTION = re.compile(r"(?P<key>[a-z_]+(\.[a-z_]+)*)=(?P<value>.*)", re.DOTALL)

_RUN = "RUN: a run's name in storage, or the path of its folder\n\n"

EXIT_CODES: dict[type[BaseException], int] = {
    ConfigError: 2,
    DataError: 3,
    NumericalError: 4,
    StorageError: 5,
    UnavailableError: 5,
    SupersededError: 5,
    TrainingError: 1,
    OSError: 5,
}


def parse(description: str, **flags: str) -> argparse.Namespace:
    """Reads the command line of an entry point.

    Args:
        description: the first line of its help.
        **flags: name -> help of further on/off flags.

    Returns:
        `overrides` (list of key=value), `config` (path or None), `print_config`, and the flags.
    """
    groups = "\n".join(f"  {group}={' | '.join(layers.members(group))}" for group in layers.GROUP_ORDER)
    parser = argparse.ArgumentParser(
        description=description,
        epilog=f"groups and their members (configs/GROUP/MEMBER.yaml):\n{groups}\n\n"
        "any other key: KEY=VALUE with the dotted keys that --print-config shows",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="dataset=folder, trainer.epochs=50, …")
    parser.add_argument("--config", metavar="FILE", help="a YAML file to start from, such as a run's config.yaml")
    parser.add_argument("--print-config", action="store_true", help="show the resolved configuration and stop")
    for name, text in flags.items():
        parser.add_argument(f"--{name.replace('_', '-')}", action="store_true", help=text)
    return parser.parse_intermixed_args()


def read_words(words: list[str]) -> tuple[list[str], str | None]:
    """(overrides, path of --config) of a command line that another process will `parse`; its flags are passed over."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--config")
    known, others = parser.parse_known_args(words)
    return [word for word in others if not word.startswith("--")], known.config


class Command(NamedTuple):
    """A command line of words and options.

    Attributes:
        words: RUN and what else stands without a key.
        options: every option, its default where none was given.
        flags: the flags that were given.
    """

    words: list[str]
    options: dict[str, str]
    flags: set[str]


def parse_command(
    description: str,
    words: str,
    options: dict[str, tuple[str, str]],
    arguments: list[str] | None = None,
    **flags: str,
) -> Command:
    """Reads the command line of an entry point that works on what is there instead of configuring a run.

    Args:
        description: the first line of its help.
        words: what stands without a key, as in "RUN FOLDER"; a last "…" allows more of the word before it.
        options: name -> (default, help) of KEY=VALUE options.
        arguments: to read instead of the process's own.
        **flags: name -> help of further on/off flags.

    Raises:
        ConfigError: an unknown option, or too few or too many words.
    """
    described = "\n".join(f"  {key}={default or '…':<10} {text}" for key, (default, text) in options.items())
    parser = argparse.ArgumentParser(
        description=description,
        epilog=f"{_RUN if 'RUN' in words else ''}options and their defaults:\n{described}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("words", nargs="*", metavar=f"{words} [KEY=VALUE]".strip())
    for name, text in flags.items():
        parser.add_argument(f"--{name.replace('_', '-')}", action="store_true", help=text)
    read = parser.parse_intermixed_args(arguments)
    given = [match for word in read.words if (match := _OPTION.fullmatch(word))]
    for key in (match["key"] for match in given):
        if key not in options:
            raise ConfigError(f"{key}: no such option{nearest(key, options)}; expected {', '.join(options)}")
    plain = [word for word in read.words if not _OPTION.fullmatch(word)]
    expected = words.split()
    open_ended = expected[-1:] == ["…"]
    fewest = len(expected) - open_ended
    if len(plain) < fewest or (len(plain) > fewest and not open_ended):
        raise ConfigError(f"expected {words or 'options only'}, got {' '.join(plain) or 'nothing'}; --help says more")
    values = {key: default for key, (default, _) in options.items()} | {match["key"]: match["value"] for match in given}
    return Command(plain, values, {name for name in flags if getattr(read, name)})


def chosen_names(key: str, value: str, valid: Sequence[str]) -> list[str]:
    """The names of a list option, `knn20,linear` or `[knn20,linear]`; none for an empty value.

    Raises:
        ConfigError: a name that is not valid.
    """
    names = [name.strip() for name in value.strip().removeprefix("[").removesuffix("]").split(",") if name.strip()]
    for name in names:
        if name not in valid:
            raise ConfigError(f"{key}: expected some of {', '.join(valid)}; got {name!r}{nearest(name, valid)}")
    return list(dict.fromkeys(names))


def whole_number(key: str, value: str, least: int, most: int) -> int:
    """The value of a number option.

    Raises:
        ConfigError: no whole number, or out of range.
    """
    if not value.isdecimal() or not least <= int(value) <= most:
        raise ConfigError(f"{key}: expected a whole number from {least} to {most}, got {value!r}")
    return int(value)


def _interrupt(number: int, frame: Any) -> NoReturn:
    signal.signal(number, signal.SIG_DFL)  # a second one does not wait for things to be put in order
    raise KeyboardInterrupt


def main_with_exit_codes(body: Callable[[], int | None]) -> NoReturn:
    """Runs an entry point and ends the process with its exit code.

    Expected errors are one line on stderr; a traceback is for bugs (exit code 1).

    Args:
        body: returns an exit code, or None for 0.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a class may have a name that the terminal cannot show
    if os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH"):
        os.environ.setdefault("RAY_AUTH_MODE", "token")  # Ray reads it when it is imported, and has it off
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGINT, _interrupt)  # also where a shell started us in the background with it ignored
    try:
        sys.exit(body() or 0)
    except tuple(EXIT_CODES) as error:
        print(f"error: {error}", file=sys.stderr)
        code = next(code for kind, code in EXIT_CODES.items() if isinstance(error, kind))
    except KeyboardInterrupt:
        print("stopped by the user; the same command resumes from its last checkpoint, if any", file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
        remove_own_copies()
        os._exit(130)  # at once: threads of Ray and TensorFlow may still be at work
    sys.exit(code)

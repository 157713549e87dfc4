"""What the entry points share: arguments, and exceptions as exit codes."""

import argparse
import io
import os
import signal
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from jobs import layers
from jobs.errors import ConfigError, TrainingError, UnavailableError
from semisup_core.errors import DataError, NumericalError

EXIT_CODES: dict[type[BaseException], int] = {
    ConfigError: 2,
    DataError: 3,
    NumericalError: 4,
    UnavailableError: 5,
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
        os._exit(130)  # at once: threads of Ray and TensorFlow may still be at work
    sys.exit(code)

"""Runs a job on a Ray cluster: `python -m jobs.submit address=http://HOST:8265 -- train storage=s3://BUCKET/runs`."""

import os
import sys

from jobs.cli import main_with_exit_codes, parse_command, whole_number
from jobs.errors import ConfigError
from jobs.submission import Submission, check, connect, submit
from semisup_core.settings import nearest

_JOBS = ("train", "tune", "pipeline", "data", "evaluate", "embed")
_MOST_RETRIES = 1000
_ADDRESS = os.environ.get("RAY_API_SERVER_ADDRESS", "http://127.0.0.1:8265")


def main() -> int:
    """Parses, validates what the job would be given, and hands over; returns the job's own exit code."""
    arguments = sys.argv[1:]
    ours, words = arguments, []
    if "--" in arguments:
        ours, words = arguments[: arguments.index("--")], arguments[arguments.index("--") + 1 :]
    command = parse_command(
        f"Run a job on a Ray cluster. Behind -- stands one of {', '.join(_JOBS)} and its own words.",
        "",
        {
            "address": (_ADDRESS, "of the cluster's dashboard"),
            "retries": ("3", "attempts that may follow one that failed; the run goes on by its name"),
            "wait": ("true", "follow the job to its end, and end with its exit code"),
        },
        arguments=ours,
    )
    if not words or words[0] not in _JOBS:
        given = words[0] if words else "nothing"
        raise ConfigError(
            f"expected -- and one of {', '.join(_JOBS)}, as in jobs.submit -- train method=paws; got {given}"
            f"{nearest(given, _JOBS)}"
        )
    if command.options["wait"] not in ("true", "false"):
        raise ConfigError(f"wait: expected true or false, got {command.options['wait']}")
    retries = whole_number("retries", command.options["retries"], 0, _MOST_RETRIES)
    name = next((word.removeprefix("name=") for word in reversed(words) if word.startswith("name=")), None)
    what = Submission(words[0], words[1:], name)
    check(what)
    client = connect(command.options["address"])
    return submit(client, what, retries, command.options["wait"] == "true", lambda line: print(line, flush=True))


if __name__ == "__main__":
    main_with_exit_codes(main)

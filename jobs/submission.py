"""Jobs on a running cluster through Ray's job server: one at a time under a name, followed to their end."""

import asyncio
import hashlib
import logging
import os
import re
import shlex
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from jobs.errors import ConfigError, UnavailableError
from jobs.storage import is_shared

ROOT = Path(__file__).resolve().parent.parent
_ENVIRONMENT = ROOT / "cluster" / "runtime_env.yaml"
# Exit codes that another attempt would only repeat: configuration, data, numbers that are not finite.
_FINAL = (0, 2, 3, 4, 130)
_POLL_SECONDS = 1.0
_BETWEEN_SECONDS = 5.0  # attempts
_SILENCE_SECONDS = 30.0  # of a log, after which its connection may be dead
_NO_AGENT = "No available agent"  # Ray's words, said after it has waited 10 s for one
_AGENT_SECONDS = 60.0
_PATIENCE_SECONDS = 120.0  # for a job server that does not answer while a job runs


class Submission(NamedTuple):
    """What to run.

    Attributes:
        job: an entry point of `jobs`.
        words: its command line.
        name: of the run, or None.
    """

    job: str
    words: Sequence[str]
    name: str | None

    @property
    def base(self) -> str:
        """What its attempts are called, each with a number behind it; the same for the same command."""
        digest = hashlib.sha256(shlex.join(self.words).encode()).hexdigest()[:8]
        return f"{self.job}-{self.name or digest}"

    @property
    def entrypoint(self) -> str:
        """For the shell that Ray starts."""
        return shlex.join(["python", "-m", f"jobs.{self.job}", *self.words])


def connect(address: str) -> Any:
    """Ray's client of a job server.

    Raises:
        ConfigError: it is no address of one.
        UnavailableError: nothing answers there, or it wants another token.
    """
    if not address.startswith(("http://", "https://")):
        raise ConfigError(f"address: expected the dashboard's, as in http://HOST:8265; got {address}")
    # Ray reads the mode when it is imported; it is off by default, and then a cluster with tokens answers nobody.
    if os.environ.get("RAY_AUTH_TOKEN") or Path(_token_file()).exists():
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    from ray.job_submission import JobSubmissionClient

    logging.disable(logging.WARNING)  # what Ray uploads, and that a log has ended
    try:
        return JobSubmissionClient(address)
    except Exception as error:  # of requests, of Ray, or a RuntimeError with the server's words
        raise UnavailableError(_no_answer(address, error)) from error


def _token_file() -> str:
    return os.environ.get("RAY_AUTH_TOKEN_PATH") or str(Path.home() / ".ray" / "auth_token")


def _no_answer(address: str, error: Exception) -> str:
    words = " ".join(str(error).split())[:300] or type(error).__name__
    return (
        f"address={address}: no job server of Ray answers ({words}); give the address of the dashboard, "
        "http://HOST:8265, and the cluster's token in RAY_AUTH_TOKEN"
    )


def submit(client: Any, what: Submission, retries: int, wait: bool, say: Callable[[str], Any]) -> int:
    """Submits a job, or follows the attempt of it that is alive, and submits it again while that may help.

    Args:
        client: of `connect`.
        what: to run.
        retries: how many more attempts may follow one that failed.
        wait: follow it to its end.
        say: prints a line to the user.

    Returns:
        The exit code of the last attempt; 0 without waiting.

    Raises:
        UnavailableError: the job server went away, or the job could not be started.
    """
    number, alive = _newest(client, what)
    for left in range(retries, -1, -1):
        name = f"{what.base}-{number}" if alive else f"{what.base}-{number + 1}"
        if alive:
            say(f"{name} is running already: following it")
        else:
            number += 1
            _start(client, name, what)
        say(_next_commands(client.get_address(), name))
        if not wait:
            return 0
        try:
            code, message = _follow(client, name)
        except KeyboardInterrupt:
            say(f"\n{name} goes on; the same command follows it again")
            raise
        alive = False
        if code in _FINAL:
            return code
        say(f"{name} ended with {'no exit code' if code is None else f'exit code {code}'}: {message}")
        if left:
            say(f"submitting it again ({left} more at most): the run goes on from its last checkpoint")
            time.sleep(_BETWEEN_SECONDS)
    if code is None:
        raise UnavailableError(f"{name}: the job's process was lost or never began: {message}")
    return code


def _newest(client: Any, what: Submission) -> tuple[int, bool]:
    """The number of the newest attempt, 0 for none, and whether it has not ended.

    Raises:
        ConfigError: it is alive, and does something else.
    """
    pattern = re.compile(re.escape(what.base) + r"-(\d+)")
    found = {}
    for job in client.list_jobs():
        if job.submission_id and (match := pattern.fullmatch(job.submission_id)):
            found[int(match[1])] = job
    number = max(found, default=0)
    alive = bool(found) and not found[number].status.is_terminal()
    if alive and found[number].entrypoint != what.entrypoint:
        raise ConfigError(
            f"{what.base}-{number} is running with other words ({found[number].entrypoint}); expected the same ones to "
            "follow it, or another name for another run"
        )
    return number, alive


def _start(client: Any, name: str, what: Submission) -> None:
    environment = {**yaml.safe_load(_ENVIRONMENT.read_text()), "working_dir": str(ROOT)}
    started = time.monotonic()
    while True:
        try:
            client.submit_job(entrypoint=what.entrypoint, submission_id=name, runtime_env=environment)
            return
        except (RuntimeError, OSError, ValueError) as error:
            hint = ""
            if _NO_AGENT in str(error):  # a cluster that has just started has none yet
                if time.monotonic() - started < _AGENT_SECONDS:
                    continue
                hint = (
                    " (the head's agent does not run: a second cluster on its machine may hold its port; "
                    "ray start --dashboard-agent-listen-port=0 takes a free one)"
                )
            raise UnavailableError(f"{name} could not be submitted: {error}{hint}") from error


def _next_commands(address: str, name: str) -> str:
    where = f"--address {address}"
    ray = "RAY_AUTH_MODE=token ray job" if os.environ.get("RAY_AUTH_MODE") == "token" else "ray job"
    return (
        f"{name}\n  logs: {ray} logs {where} --follow {name}\n  stop: {ray} stop {where} {name}\n"
        f"  dashboard: {address}/#/jobs/{name}"
    )


def _follow(client: Any, name: str) -> tuple[int | None, str]:
    """Prints what a job says until it ends; returns its exit code, None if it left none, and what Ray says of it."""
    said, answered = [0], time.monotonic()
    while True:
        with suppress(Exception):  # of aiohttp, or Ray's RuntimeError; the status below says whether it matters
            asyncio.run(_print_logs(client, name, said))
        try:
            info = client.get_job_info(name)
            answered = time.monotonic()
        except Exception as error:  # of requests, or Ray's RuntimeError
            if time.monotonic() - answered > _PATIENCE_SECONDS:
                raise UnavailableError(
                    f"{_no_answer(client.get_address(), error)}; {name} may go on: the same command follows it"
                ) from error
            time.sleep(_POLL_SECONDS)
            continue
        status = str(info.status)
        if info.status.is_terminal():
            code = {"SUCCEEDED": 0, "STOPPED": 130}.get(status, info.driver_exit_code)
            return code, " ".join((info.message or status).split())[:500]
        time.sleep(_POLL_SECONDS)


async def _print_logs(client: Any, name: str, said: list[int]) -> None:
    """Prints a job's log but for the characters that were said before, until it ends or is silent.

    The server begins at the first character each time, and does not notice a dead connection.
    """
    place, lines = 0, client.tail_job_logs(name)
    with suppress(StopAsyncIteration, TimeoutError):
        while True:
            text = await asyncio.wait_for(anext(lines), _SILENCE_SECONDS)
            print(text[max(said[0] - place, 0) :], end="", flush=True)
            place += len(text)
            said[0] = max(said[0], place)


def check(what: Submission) -> None:
    """Answers here what the job would be refused for there.

    Raises:
        ConfigError: as the job's own; or a place that does not outlive the job's folder, or is not there.
    """
    from jobs import config, search_config, stages
    from jobs.cli import read_words

    overrides, file = read_words(list(what.words))
    if file:
        _check_sent(file)
    if what.job in ("evaluate", "embed"):
        _check_finished_run(overrides)
        return
    if what.job == "tune":
        storage = search_config.load(overrides, file).config.storage
    elif what.job == "pipeline":
        storage = stages.plan(overrides, file)[0].load().storage
    else:
        storage = config.load(overrides, file).storage
    _check_outlives("storage", storage)
    for key, value in (word.split("=", 1) for word in overrides if "=" in word):
        if key.endswith("dataset.path") and not Path(value).is_absolute():
            raise ConfigError(
                f"{key}: expected an absolute path, got {value}: one that all nodes see, or of data that "
                "python -m jobs.data has prepared into the same storage"
            )


def _check_finished_run(words: Sequence[str]) -> None:
    options = dict(word.split("=", 1) for word in words if "=" in word)
    run = next((word for word in words if "=" not in word), "")
    if not is_shared(run):
        _check_outlives("storage", options.get("storage", "runs"))
    if "output" in options:
        _check_outlives("output", options["output"])


def _check_outlives(key: str, place: str) -> None:
    if not is_shared(place):
        raise ConfigError(
            f"{key}: expected an absolute path that all nodes share{' or a bucket' if key == 'storage' else ''}, got "
            f"{place}; a job's working folder does not outlive it"
        )


def _check_sent(file: str) -> None:
    """Whether the job will find a configuration file."""
    if is_shared(file):
        return
    ignored = ROOT / ".rayignore"
    lines = ignored.read_text().splitlines() if ignored.exists() else []  # not in the image
    left_out = [line.strip("/") for line in lines if line[:1] == "/"]
    inside = Path(file).resolve().is_relative_to(ROOT) and (ROOT / file).resolve() == Path(file).resolve()
    if not inside or (ROOT / file).resolve().relative_to(ROOT).parts[0] in left_out:
        raise ConfigError(
            f"--config {file}: the job would not find it; expected a file of the project that is sent along (all but "
            f"{', '.join(left_out)}), named from the project's folder, an absolute path that all nodes see, or a bucket"
        )

"""What a cluster has, and the share of it that a worker gets."""

import math
import time
from collections.abc import Callable
from typing import Any

import ray

from jobs.errors import ConfigError
from jobs.schema import RunConfig
from jobs.search_config import Search

_LOOK_SECONDS = 5.0


def nodes() -> list[tuple[float, int]]:
    """Cores and GPUs of each node of the connected cluster that is alive."""
    found = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [(resources.get("CPU", 0.0), int(resources.get("GPU", 0))) for resources in found]


def shares(config: RunConfig, nodes: list[tuple[float, int]]) -> tuple[float, int]:
    """Cores and GPUs of one worker: what was asked for if the nodes have it, else the largest share that fits.

    Args:
        config: the run.
        nodes: cores and GPUs of each node; a worker must fit on one.

    Raises:
        ConfigError: the workers do not fit.
    """
    chosen = config.runtime
    if chosen.autoscaling:
        return _asked("runtime", "worker", chosen.cpus_per_worker), chosen.gpus_per_worker or 0
    most_cpus, most_gpus = max(cpus for cpus, _ in nodes), max(gpus for _, gpus in nodes)
    gpu_choices = range(most_gpus, -1, -1) if chosen.gpus_per_worker is None else [chosen.gpus_per_worker]
    whole = [float(cpus) for cpus in range(int(most_cpus), 0, -1)]
    parts = [_part(most_cpus, n) for n in range(2, chosen.workers[-1] + 1)] if most_cpus else []
    cpu_choices = [*whole, *parts] if chosen.cpus_per_worker is None else [chosen.cpus_per_worker]
    for gpus in gpu_choices:
        for workers in reversed(chosen.workers):  # of a range, as many as fit now
            for cpus in cpu_choices:
                if _workers_that_fit(cpus, gpus, nodes) >= workers:
                    return cpus, gpus
    asked = [
        f"runtime.{key}={value:g}"
        for key, value in (("cpus_per_worker", chosen.cpus_per_worker), ("gpus_per_worker", chosen.gpus_per_worker))
        if value is not None
    ]
    has = ", ".join(f"{cpus:g} cores and {gpus} GPUs" for cpus, gpus in nodes)
    raise ConfigError(
        f"runtime.num_workers={chosen.asked}{' with ' if asked else ''}{' and '.join(asked)}: does not fit the cluster "
        f"(nodes of {has}); ask for less, or set runtime.autoscaling=true where machines come when asked for"
    )


def trial_share(search: Search, nodes: list[tuple[float, int]]) -> tuple[float, float, int]:
    """Cores and GPUs of one worker of a trial, and how many trials run at a time.

    What is not asked for: one GPU where there are any, and as many cores as still let as many trials run as would with
    one core each.

    Args:
        search: the search.
        nodes: cores and GPUs of each node.

    Raises:
        ConfigError: not even one trial fits.
    """
    settings, runtime = search.settings, search.config.runtime
    several, workers = search.several_workers, runtime.workers[0]
    asked_cpus = runtime.cpus_per_worker if several else settings.cpus_per_trial
    asked_gpus = runtime.gpus_per_worker if several else settings.gpus_per_trial
    most = min(settings.max_concurrent or search.trials, search.trials)
    if runtime.autoscaling:
        section, each = ("runtime", "worker") if several else ("search", "trial")
        return _asked(section, each, asked_cpus), asked_gpus or 0, most
    gpus = (1 if any(gpus for _, gpus in nodes) else 0) if asked_gpus is None else asked_gpus

    def room(cpus: float) -> int:
        return min(_workers_that_fit(cpus, gpus, nodes) // workers, most)

    whole = range(int(max(cpus for cpus, _ in nodes)), 0, -1)
    cpus = asked_cpus or next((float(cpus) for cpus in whole if room(cpus) == room(1) > 0), 1.0)
    slots = room(cpus)
    if not slots:
        has = ", ".join(f"{cpus:g} cores and {gpus} GPUs" for cpus, gpus in nodes)
        section, each = ("runtime", "worker") if search.several_workers else ("search", "trial")
        raise ConfigError(
            f"{section}.cpus_per_{each} and gpus_per_{each}: a trial of {workers} workers with {cpus:g} cores and "
            f"{gpus:g} GPUs each does not fit the cluster (nodes of {has}); ask for less"
        )
    return cpus, gpus, slots


def _asked(section: str, each: str, cpus: float | None) -> float:
    """What a worker needs of machines that are not there yet."""
    if cpus is None:
        raise ConfigError(
            f"{section}.cpus_per_{each}: with runtime.autoscaling=true, expected what a {each} needs of a machine, "
            f"{section}.cpus_per_{each}=8 {section}.gpus_per_{each}=1 for instance; got nothing"
        )
    return cpus


def _part(cpus: float, workers: int) -> float:
    """The largest share of a node, in Ray's steps of 1e-4, that fits `workers` times as Ray's elastic range counts."""
    share = math.floor(cpus / workers * 1e4) / 1e4
    return share if cpus // share >= workers else round(share - 1e-4, 4)


def _workers_that_fit(cpus: float, gpus: float, nodes: list[tuple[float, int]]) -> int:
    rounding = 1e-9  # thirds of a core add up to a whole one
    return sum(
        min(int(node_cpus / cpus + rounding), int(node_gpus / gpus + rounding) if gpus else 10**9)
        for node_cpus, node_gpus in nodes
    )


class RoomWatch:
    """Says when a run waits for machines: Ray would do so for ever, in silence."""

    def __init__(self, config: RunConfig, cpus: float, gpus: int, say: Callable[[str], Any]) -> None:
        """Starts at a moment when there is room.

        Args:
            config: the run.
            cpus: cores of a worker.
            gpus: GPUs of a worker.
            say: prints a line to the user.
        """
        self._say = say
        self._fewest, self._share = config.runtime.workers[0], (cpus, gpus)
        self._next, self._said = time.monotonic(), self._fewest

    def look(self) -> None:
        """Prints a line when the number of workers that fit is too small, and again when it is another one."""
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + _LOOK_SECONDS
        room = min(_workers_that_fit(*self._share, nodes()), self._fewest)
        if room != self._said and room < self._fewest:
            self._say(f"waiting for machines: {self._fewest} workers needed, room for {room}")
        self._said = room

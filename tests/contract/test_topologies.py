"""The same runs in two processes and in two workers of Ray Train as in this process alone."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from small_runs import NARROW, check_equal, distance, read_outcome, words

from semisup_core.methods import METHODS

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
DOCUMENT = ROOT / "docs" / "correctness.md"
FAST = [("suncet", "conv"), ("moco", "conv"), ("fixmatch", "conv")]
WHOLE = [(method, encoder) for method in METHODS for encoder in NARROW]
CASES_A_PROCESS = 20

pytestmark = [pytest.mark.ray, pytest.mark.xdist_group("topologies")]

MANY = {"two devices": "2 devices of one process", "two processes": "2 processes", "two ray workers": "2 Ray workers"}


def topology_name(topology):
    return topology.__name__.replace("_", " ")


def lines(pairs, storage):
    return {f"{method}-{encoder}": [f"storage={storage}", *words(method, encoder)] for method, encoder in pairs}


def one_device(job):
    in_one_process(job | {"logical_devices": 1})


def two_devices(job):
    in_one_process(job | {"logical_devices": 2})


def four_devices(job):
    """More than two summands: the order of a sum counts."""
    in_one_process(job | {"logical_devices": 4})


def parts(job):
    """The job in parts: TensorFlow keeps something of every graph, and 40 cases in one process fill 8 GB."""
    count = -(-len(job["cases"]) // CASES_A_PROCESS)
    return [job | {"cases": dict(list(job["cases"].items())[i::count])} for i in range(count)]


def in_one_process(job):
    """Each case in one process; the parts at the same time."""
    run_processes(parts(job), [{}] * len(parts(job)))


def two_processes(job):
    for part in parts(job):
        as_two_processes(part)


def as_two_processes(job):
    with socket.socket() as first, socket.socket() as second:  # both open at once, so that the ports differ
        for free in (first, second):
            free.bind(("127.0.0.1", 0))
        addresses = [f"127.0.0.1:{free.getsockname()[1]}" for free in (first, second)]
    tasks = [{"cluster": {"worker": addresses}, "task": {"type": "worker", "index": rank}} for rank in range(2)]
    run_processes([job | {"logical_devices": 1}] * 2, [{"TF_CONFIG": json.dumps(task)} for task in tasks])


def run_processes(jobs, environments):
    paths = {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "-1"}
    files = [Path(job["folder"]) / f"process{i}.errors" for i, job in enumerate(jobs)]
    processes = []
    try:
        for path, job, added in zip(files, jobs, environments, strict=True):
            file = path.with_suffix(".json")
            file.write_text(json.dumps(job))
            command = [sys.executable, str(HERE / "small_runs.py"), str(file)]
            with path.open("w") as errors:
                processes.append(subprocess.Popen(command, env=os.environ | paths | added, stderr=errors))
        while any(process.poll() is None for process in processes):
            if any(process.poll() for process in processes):  # the others would wait for it in a collective
                break
            time.sleep(0.1)
    finally:
        for process in processes:
            process.kill()
    assert not any(process.wait() for process in processes), "\n".join(path.read_text() for path in files)


def two_ray_workers(job):
    for part in parts(job):
        as_two_ray_workers(part)


def as_two_ray_workers(job):
    import ray
    import ray.train
    from ray.train.tensorflow import TensorflowTrainer

    def work(job):  # inside, so that Ray sends it by value
        os.environ.pop("TF_USE_LEGACY_KERAS", None)
        sys.path[:0] = job["path"]
        from small_runs import run_job

        context = ray.train.get_context()
        run_job(job, context.get_world_rank(), context.get_world_size())

    ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level="error", num_cpus=2)
    try:
        TensorflowTrainer(
            work,
            train_loop_config={**job, "path": [str(HERE), str(ROOT)]},
            scaling_config=ray.train.ScalingConfig(num_workers=2, use_gpu=False, resources_per_worker={"CPU": 1}),
            run_config=ray.train.RunConfig(name="ray", storage_path=job["folder"]),
        ).fit()
    finally:
        ray.shutdown()


@pytest.fixture(scope="module")
def outcomes(digits, storage, tmp_path_factory):
    """(topology, pairs) -> the folder with their outcomes; each topology is started once."""
    made = {}

    def run(topology, pairs):
        key = topology.__name__, tuple(pairs)
        if key not in made:
            made[key] = None  # what has failed is not tried again for every case
            folder = tmp_path_factory.mktemp(topology.__name__)
            topology(
                {
                    "cases": lines(pairs, storage),
                    "folder": str(folder),
                    "store": str(digits.path),
                    # Its passes take a third of the start of each case and know nothing of replicas.
                    "optimize_graphs": len(pairs) < len(WHOLE),
                }
            )
            made[key] = folder
        assert made[key], f"{topology_name(topology)} failed before"
        return made[key]

    return run


@pytest.mark.timeout(600)
@pytest.mark.parametrize("case", FAST, ids="-".join)
@pytest.mark.parametrize("topology", [four_devices, two_processes, two_ray_workers], ids=topology_name)
def test_many_compute_the_run_of_one(outcomes, topology, case):
    check_case(outcomes, topology, case, FAST, replicas=4 if topology is four_devices else 2)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("topology", [two_processes, two_ray_workers], ids=topology_name)
def test_steps_leave_no_threads_behind(outcomes, topology):
    # About 60 collectives a step. With a timeout, TensorFlow would hold a thread for each until the timeout is over.
    found = [int(path.read_text()) for path in outcomes(topology, FAST).glob("threads.*")]
    assert len(found) == 2 and max(found) < 500


@pytest.fixture(scope="module")
def table():
    """(method, encoder, topology) -> distance; goes into the document when it is whole."""
    distances = {}
    yield distances
    if len(distances) == len(WHOLE) * len(MANY):
        write_table(distances)


@pytest.mark.slow
@pytest.mark.timeout(4 * 3600)
@pytest.mark.parametrize("case", WHOLE, ids="-".join)
@pytest.mark.parametrize("topology", [two_devices, two_processes, two_ray_workers], ids=topology_name)
def test_every_method_and_encoder_on_every_topology(outcomes, table, topology, case):
    many, one = check_case(outcomes, topology, case, WHOLE)
    table[*case, topology_name(topology)] = distance(many.weights(), one.weights())


def check_case(outcomes, topology, case, pairs, replicas=2):
    one, many = (read_outcome(outcomes(which, pairs), "-".join(case)) for which in (one_device, topology))
    assert len(many.replicas) == replicas
    check_equal(many, one)
    return many, one


def write_table(distances):
    rows = [["method", *MANY.values()], ["---"] * (1 + len(MANY))]
    for method in METHODS:
        worst = [max(distances[method, encoder, topology] for encoder in NARROW) for topology in MANY]
        rows.append([f"`{method}`", *(f"{each:.0e}" for each in worst)])
    text = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    before, start, rest = DOCUMENT.read_text().partition("<!-- measured by make test-slow -->\n")
    _, end, after = rest.partition("<!-- end -->")
    assert start and end
    DOCUMENT.write_text(f"{before}{start}{text}\n{end}{after}")

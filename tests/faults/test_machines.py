"""Machines that leave: two nodes of a real Ray cluster."""

import time

import pytest
import ray
from fault_jobs import STEPS_PER_EPOCH, check_same_run, undisturbed
from ray._raylet import GcsClient
from ray.cluster_utils import Cluster
from ray.core.generated.autoscaler_pb2 import DrainNodeReason

pytestmark = [pytest.mark.faults, pytest.mark.ray, pytest.mark.xdist_group("ray"), pytest.mark.timeout(500)]


@pytest.fixture
def cluster():
    """A head without cores, where the driver is, and two nodes with one core each."""
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    made.nodes = [made.add_node(num_cpus=1) for _ in range(2)]
    yield made
    if ray.is_initialized():
        ray.shutdown()
    made.shutdown()


def test_a_node_leaves_and_a_run_of_any_size_goes_on_smaller(job, reference, cluster, note):
    run = job(f"runtime.address={cluster.address}", "runtime.num_workers=[1,2]")
    run.wait_for_step(STEPS_PER_EPOCH)
    assert "; 2 replicas," in run.output
    run.mark()
    cluster.remove_node(cluster.nodes[1], allow_graceful=False)
    assert run.end() == 0, run.output
    assert "; 1 replica," in run.output
    check_same_run(run.run, reference)
    note(run.recovery())


def test_a_node_leaves_and_a_run_of_fixed_size_waits_for_another(job, reference, cluster, note):
    run = job(f"runtime.address={cluster.address}")
    run.wait_for_step(STEPS_PER_EPOCH)
    cluster.remove_node(cluster.nodes[1], allow_graceful=False)
    run.wait_for("waiting for machines: 2 workers needed, room for 1")
    run.mark()
    cluster.add_node(num_cpus=1)
    assert run.end() == 0, run.output
    check_same_run(run.run, reference)
    note(f"once there is another: {run.recovery()}")


def test_a_node_is_drained_with_a_notice(job, cluster, tmp_path_factory, note):
    # No failure is allowed: the notice must not count as one. It comes as from a cloud's autoscaler.
    long = ["trainer.epochs=20"]
    run = job(f"runtime.address={cluster.address}", "runtime.num_workers=[1,2]", "runtime.max_failures=0", *long)
    run.wait_for_step(STEPS_PER_EPOCH)
    leaves = int((time.time() + 10) * 1000)
    gcs = GcsClient(address=cluster.address)
    run.mark()
    assert gcs.drain_node(cluster.nodes[1].node_id, DrainNodeReason.DRAIN_NODE_REASON_PREEMPTION, "spot", leaves)[0]
    run.wait_for("before it leaves")
    saved = int(run.output.split("saved step ")[1].split()[0])
    run.wait_for("; 1 replica,")
    run.wait_for("resuming after step")
    assert int(run.output.split("resuming after step ")[1].split()[0]) >= saved
    assert run.end() == 0, run.output
    check_same_run(run.run, undisturbed(tmp_path_factory.mktemp("long"), *long))
    note(f"saved step {saved} on notice; {run.recovery()}")

"""What a step costs on many GPUs, on paper: `python -m jobs.benchmarks.scaling` prints the tables of docs/scaling.md.

Nothing overlaps in this model, as nothing does in a step of `semisup_core.trainer`: forward and backward, with
BatchNorm's sums and the loss's gathers in between, then one sum of all gradients, then the update.
"""

import math
from typing import NamedTuple

_FLOAT = 4  # bytes
_FORWARD_AND_BACKWARD = 3  # times the forward pass: the gradients of inputs and of weights cost one each


class Network(NamedTuple):
    """An encoder at an image size.

    Attributes:
        name: of it.
        operations: of a forward pass of a view, a multiply-add being two.
        parameters: that are trained.
        norms: BatchNorm layers.
        channels: of all of them together.
    """

    name: str
    operations: float
    parameters: float
    norms: int
    channels: int


CONV = Network("conv, width 128, 96 px", 0.21515e9, 856_064, 0, 0)
RESNET50 = Network("resnet50, 224 px", 8.174e9, 23_508_032, 53, 26_560)


class Method(NamedTuple):
    """What a method sends and compares.

    Attributes:
        name: of it.
        views: of an image of the batch.
        gathered: rows that are gathered, of an image of the global batch, with a gradient.
        without_gradient: rows gathered besides, without one.
        references: rows that an anchor is compared with, of an image of the global batch.
        anchors: rows that are compared, of an image of a GPU's batch.
        queue: references besides, whatever the batch.
    """

    name: str
    views: float
    gathered: float
    without_gradient: float
    references: float
    anchors: float
    queue: int = 0


# SuNCEt and PAWS with half as many labelled images as unlabelled ones, each seen once; MoCo with the paper's queue.
METHODS = (
    Method("info_nce", 2, 1, 0, 1, 1),
    Method("simclr", 2, 2, 0, 2, 2),
    Method("suncet", 2.5, 1.5, 0, 1, 1.25),
    Method("paws", 2.5, 0.5, 0, 0.5, 2),
    Method("moco", 2, 0, 1, 0, 1, 65_536),
    Method("byol", 4, 0, 0, 0, 0),
    Method("fixmatch", 2.5, 0, 0, 0, 0),
)


class Cluster(NamedTuple):
    """GPUs in machines.

    Attributes:
        name: of the kind.
        operations: a second that a GPU's training reaches in bfloat16.
        operations_float32: in float32, where the losses are.
        memory: bytes a second of a GPU's memory.
        gpus: of a machine.
        inside: bytes a second of an all-reduce between them.
        outside: bytes a second of a machine's network.
        latency_inside: seconds that a message takes between two GPUs of a machine.
        latency_outside: between machines.
    """

    name: str
    operations: float
    operations_float32: float
    memory: float
    gpus: int
    inside: float
    outside: float
    latency_inside: float
    latency_outside: float


# Data sheet values, and 40 % of the 312 TFLOP/s, which convolutions reach; 400 Gbit/s of network a machine.
A100 = Cluster("8 x A100 a machine", 0.4 * 312e12, 19.5e12, 1.5e12, 8, 230e9, 50e9, 10e-6, 20e-6)

_WIDTH = 128  # of the features that are compared
_PASSES = 10  # over a matrix of similarities in forward and backward together


class Step(NamedTuple):
    """Seconds of a step by what they go into."""

    compute: float
    similarities: float
    gradients: float
    norms: float
    gathers: float

    @property
    def seconds(self) -> float:
        """All of it."""
        return sum(self)

    @property
    def efficiency(self) -> float:
        """Share of the time in what one GPU alone would have to do, too."""
        return (self.compute + self.similarities) / self.seconds


def step(network: Network, method: Method, cluster: Cluster, gpus: int, batch: int) -> Step:
    """The model.

    Args:
        network: the encoder.
        method: the objective.
        cluster: where.
        gpus: R.
        batch: b, unlabelled images of a GPU.
    """
    whole, teacher = batch * gpus, 1 / 3 if method.name in ("moco", "byol") else 0.0
    student_views = method.views / 2 if teacher else method.views
    views = batch * student_views * (1 + teacher)  # a teacher's pass is forward only
    compute = views * network.operations * _FORWARD_AND_BACKWARD / cluster.operations
    pairs = batch * method.anchors * (whole * method.references + method.queue)
    product = 2 * _WIDTH * pairs * _FORWARD_AND_BACKWARD / cluster.operations_float32
    similarities = product + pairs * _FLOAT * _PASSES / cluster.memory
    gradients = all_reduce(network.parameters * _FLOAT, cluster, gpus)
    # Mean and mean of squares in one message forwards, and the gradients of both backwards.
    norms = 2 * network.norms * all_reduce(2 * network.channels / max(network.norms, 1) * _FLOAT, cluster, gpus)
    rows = whole * _WIDTH * _FLOAT
    gathers = sum(all_gather(share * rows, cluster, gpus) for share in (method.gathered, method.without_gradient))
    gathers += all_reduce(method.gathered * rows, cluster, gpus)
    return Step(compute, similarities, gradients, norms, gathers)


def all_reduce(size: float, cluster: Cluster, gpus: int) -> float:
    """Seconds of a sum of `size` bytes: a ring's bandwidth, a tree's latency."""
    return 2 * all_gather(size, cluster, gpus)


def all_gather(size: float, cluster: Cluster, gpus: int) -> float:
    """Seconds until all have `size` bytes, of which each had a share."""
    if gpus == 1 or not size:
        return 0.0
    machines = math.ceil(gpus / cluster.gpus)
    speed = cluster.inside if machines == 1 else cluster.outside
    hops = math.log2(min(gpus, cluster.gpus)) * cluster.latency_inside + math.log2(machines) * cluster.latency_outside
    return (gpus - 1) / gpus * size / speed + hops


def main() -> None:
    """Prints both tables."""
    columns = "encoder", "GPUs", "images a GPU", "ms a step", "compute", "losses", "gradients", "BatchNorm", "gathers"
    print(f"| {' | '.join(columns)} | efficiency |")
    print("| --- " * 10 + "|")
    for network in (CONV, RESNET50):
        for gpus in (1, 8, 64, 512):
            for batch in (64, 512):
                found = step(network, METHODS[2], A100, gpus, batch)
                shown = " | ".join(f"{1e3 * part:.2f}" for part in found)
                total = f"{1e3 * found.seconds:.1f}"
                print(f"| {network.name} | {gpus} | {batch} | {total} | {shown} | {found.efficiency:.2f} |")
    print()
    words = "ms of losses and gathers at a global batch of 4,096"
    print(f"| method | {words} | 32,768 | MiB of similarities a GPU and copy |")
    print("| --- " * 4 + "|")
    for method in METHODS:
        few, many = (step(RESNET50, method, A100, 64, whole // 64) for whole in (4096, 32768))
        pairs = 32768 // 64 * method.anchors * (32768 * method.references + method.queue)
        shown = " | ".join(f"{1e3 * (found.similarities + found.gathers):.2f}" for found in (few, many))
        print(f"| `{method.name}` | {shown} | {pairs * _FLOAT / 2**20:.0f} |")


if __name__ == "__main__":
    main()

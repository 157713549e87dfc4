"""Options for GPUs, as far as a CPU shows them: they change where and how things are computed, not what comes out."""

import pytest
from small_runs import distance

from jobs import build
from jobs.config import load
from jobs.errors import ConfigError
from semisup_core.devices import make_strategy

STEPS = 6


@pytest.mark.parametrize("method", ["suncet", "byol", pytest.param("simclr", marks=pytest.mark.slow)])
def test_xla_computes_the_same(training, method):
    plain, compiled = (training(method, overrides=[f"trainer.xla={on}"]) for on in ("false", "true"))
    assert compiled.run(STEPS) == pytest.approx(plain.run(STEPS), rel=1e-9)
    assert distance(compiled.weights(), plain.weights()) <= 1e-9


def test_xla_in_bfloat16(training):
    """What is written for a CPU's bfloat16 compiles, too."""
    plain, compiled = (
        training("suncet", "conv", precision="mixed_bfloat16", overrides=[f"trainer.xla={on}"])
        for on in ("false", "true")
    )
    assert compiled.run(STEPS) == pytest.approx(plain.run(STEPS), rel=0.05)


def test_xla_takes_one_device(training):
    with pytest.raises(ConfigError, match="expected a single device, found 2"):
        training("info_nce", replicas=2, overrides=["trainer.xla=true"])
    for word in ("runtime.num_workers=2", "debug.logical_devices=2"):
        with pytest.raises(ConfigError, match="trainer.xla: compiles for a single device"):
            load(["trainer.xla=true", *(["runtime=local"] if "debug" in word else []), word])


@pytest.mark.parametrize("replicas", [1, 2])
def test_batches_copied_ahead_are_the_same(training, replicas, monkeypatch):
    plain = training("suncet", replicas=replicas)
    ahead = training("suncet", replicas=replicas)
    wanted = plain.run(STEPS)
    real, devices = build.batches, []
    monkeypatch.setattr(build, "batches", lambda *a, **k: devices.append(k["device"]) or real(*a, **k))
    ahead._iterators = build.build_iterators(
        ahead.store, ahead.streams, ahead.strategy, ahead.trainer.step, 0, 1, to_device=True
    )
    assert len(set(devices)) == replicas and all("CPU" in device for device in devices)
    assert ahead.run(STEPS) == pytest.approx(wanted, rel=0, abs=0)
    assert distance(ahead.weights(), plain.weights()) == 0


def test_nccl_needs_gpus():
    with pytest.raises(ValueError, match="expected GPUs for an all-reduce by NCCL, found none"):
        make_strategy(all_reduce="nccl")

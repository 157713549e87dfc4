"""The SkyPilot task: its shell by shellcheck, its fields by SkyPilot's own parser."""

import subprocess
import sys
import venv
from pathlib import Path

import pytest
import yaml

TASK = Path(__file__).parents[2] / "cluster" / "sky.yaml"
PARSE = """
import sys, sky, yaml
fields = yaml.safe_load(open(sys.argv[1]))
given = {"env_overrides": [("STORAGE", "s3://bucket/runs")], "secrets_overrides": [("RAY_AUTH_TOKEN", "token")]}
task = sky.Task.from_yaml_config(fields, **given)
assert task.num_nodes == 4 and next(iter(task.resources)).use_spot
try:
    sky.Task.from_yaml_config({**fields, "num_node": 1}, **given)
except Exception as error:
    print(error)
"""


@pytest.mark.parametrize("part", ["setup", "run"])
def test_shellcheck_finds_nothing(tmp_path, part):
    (tmp_path / "part.sh").write_text("#!/bin/bash\n" + yaml.safe_load(TASK.read_text())[part])
    program = Path(sys.executable).with_name("shellcheck")
    done = subprocess.run([program, tmp_path / "part.sh"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout


def test_it_is_short_and_carries_no_token():
    assert len(TASK.read_text().splitlines()) < 40
    assert yaml.safe_load(TASK.read_text())["secrets"] == {"RAY_AUTH_TOKEN": None}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_skypilot_reads_it(tmp_path):
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", "skypilot==0.14.1"], check=True, timeout=800)
    done = subprocess.run([python, "-c", PARSE, TASK], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0 and "did you mean 'num_nodes'" in done.stdout, done.stdout + done.stderr

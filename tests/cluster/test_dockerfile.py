"""The image's recipe: hadolint's rules, what it copies, and that its install step gives the pinned packages alone."""

import json
import os
import re
import shutil
import subprocess
import sys
import venv
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "cluster" / "Dockerfile"
TEXT = DOCKERFILE.read_text()
(INSTALL,) = re.findall(r"^RUN (pip install .*)$", TEXT, re.MULTILINE)


def hadolint(file):
    program = Path(sys.executable).with_name("hadolint")
    return subprocess.run([program, file], capture_output=True, text=True, timeout=60)


def copied():
    """What the COPY lines take, in their order."""
    lines = re.findall(r"^COPY (?:--\S+ )?(.*) \S+$", TEXT, re.MULTILINE)
    return [word for line in lines for word in line.split()]


def pins():
    """Package -> version."""
    lines = map(Requirement, (ROOT / "constraints.txt").read_text().splitlines())
    here = [line for line in lines if line.marker is None or line.marker.evaluate()]
    return {canonicalize_name(line.name): str(line.specifier).removeprefix("==") for line in here}


def test_hadolint_finds_nothing():
    done = hadolint(DOCKERFILE)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    "before, after, rule",
    [
        (re.search("FROM .*", TEXT)[0], "FROM python:latest", "DL3007"),
        ("--no-install-recommends ", "", "DL3015"),
        ("--no-cache-dir ", "", "DL3042"),
        ('CMD ["python", "-m", "jobs.doctor"]', "CMD python -m jobs.doctor", "DL3025"),
        ("USER 1000:1000", "USER root", "DL3002"),
    ],
)
def test_hadolint_would_find_it(tmp_path, before, after, rule):
    assert before in TEXT
    (tmp_path / "Dockerfile").write_text(TEXT.replace(before, after))
    done = hadolint(tmp_path / "Dockerfile")
    assert done.returncode == 1 and rule in done.stdout, done.stdout


def test_what_it_copies_is_there_and_sent_to_the_builder():
    allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    assert sorted(copied()) == sorted(allowed)
    assert all((ROOT / name).exists() for name in copied())


def test_it_runs_as_nobody_in_particular_and_sees_gpus():
    assert "USER 1000:1000" in TEXT and "ENV HOME=/semisup\n" in TEXT and "\nENTRYPOINT" not in TEXT
    assert "NVIDIA_VISIBLE_DEVICES=all" in TEXT and "NVIDIA_DRIVER_CAPABILITIES=compute,utility" in TEXT


def test_it_installs_by_the_constraints_file_which_has_all_that_is_installed_here():
    assert "--constraint constraints.txt" in INSTALL and '".[${EXTRAS}]"' in INSTALL
    pinned, seen, left = pins(), set(), [("semisup", frozenset())]
    while left:
        name, extras = left.pop()
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        try:
            found = distribution(name)
        except PackageNotFoundError:
            continue  # of an extra that is not installed here, such as CUDA
        if name != "semisup":
            assert pinned.get(name) == found.version, name
        for line in found.requires or []:
            need = Requirement(line)
            if any(need.marker is None or need.marker.evaluate({"extra": extra}) for extra in (*extras, "")):
                left.append((canonicalize_name(need.name), frozenset(need.extras)))
    assert len(seen) > 80


def install(tmp_path, extras, *options):
    """Runs the install step in a fresh environment, on what the image has at that line."""
    place = tmp_path / "project"
    place.mkdir()
    for name in copied()[: copied().index("jobs")]:
        shutil.copy(ROOT / name, place)
    venv.create(tmp_path / "env", with_pip=True)
    step = INSTALL.replace("pip install", f"'{tmp_path}/env/bin/python' -m pip install {' '.join(options)}")
    subprocess.run(step, shell=True, cwd=place, env={**os.environ, "EXTRAS": extras}, check=True, timeout=1200)
    return tmp_path / "env" / "bin" / "python", place


@pytest.mark.slow
@pytest.mark.timeout(1300)
def test_the_install_step_gives_an_environment_that_trains(tmp_path):
    python, place = install(tmp_path, "cpu")
    listed = subprocess.run([python, "-m", "pip", "list", "--format=json"], capture_output=True, check=True).stdout
    pinned = pins()
    unpinned = {
        each["name"] for each in json.loads(listed) if pinned.get(canonicalize_name(each["name"])) != each["version"]
    }
    assert unpinned <= {"pip", "setuptools", "semisup"}
    for name in copied()[copied().index("jobs") :]:
        target = place / name
        shutil.copytree(ROOT / name, target) if (ROOT / name).is_dir() else target.parent.mkdir(exist_ok=True)
    words = ["-m", "jobs.train", f"storage={tmp_path / 'runs'}", "trainer.epochs=1", "encoder.width=8", "name=run"]
    environment = {**os.environ, "PYTHONPATH": str(place)}
    subprocess.run([python, *words], cwd=tmp_path, env=environment, check=True, timeout=300)
    assert json.loads((tmp_path / "runs" / "run" / "summary.json").read_text())["complete"]


@pytest.mark.slow
@pytest.mark.timeout(1300)
def test_every_extra_resolves_within_the_constraints(tmp_path):
    install(tmp_path, "gpu,aws,gcp,azure", "--dry-run", f"--report={tmp_path / 'report.json'}")
    report = json.loads((tmp_path / "report.json").read_text())
    found = {canonicalize_name(each["metadata"]["name"]): each["metadata"]["version"] for each in report["install"]}
    assert "nvidia-cudnn-cu12" in found and "azure-mgmt-compute" in found
    pinned = pins()
    assert {name for name, version in found.items() if pinned.get(name) != version} <= {"semisup"}

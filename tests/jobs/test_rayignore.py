"""What Ray sends to a cluster as the working directory: every tracked file, and no environment, data or runs."""

import subprocess
from pathlib import Path

import pytest
from ray._private.runtime_env.packaging import get_excludes_from_ignore_files

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def excluded():
    """Whether Ray leaves a path of the repository out; it also skips what lies in a folder that it leaves out."""
    # Ray reads .gitignore too, unless told otherwise by an environment variable.
    ignores = get_excludes_from_ignore_files(ROOT, include_gitignore=True)
    assert len(ignores) == 2

    def check(path):
        places = [ROOT / path, *(ROOT / path).parents]
        return any(ignore(place) for ignore in ignores for place in places[: len(Path(path).parts)])

    return check


def test_no_tracked_file_is_left_out(excluded):
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    files = tracked.rstrip("\0").split("\0")
    assert {"semisup_core/data/sources.py", "jobs/train.py", "configs/train.yaml"} <= set(files)
    assert [file for file in files if excluded(file)] == []


@pytest.mark.parametrize("folder", [".venv", ".git", "data", "runs", "wandb", ".mypy_cache", "jobs/__pycache__"])
def test_what_is_large_or_private_stays_here(excluded, folder):
    assert excluded(f"{folder}/x") and excluded(f"{folder}/deep/x")


@pytest.mark.parametrize("path", ["semisup_core/data/x.py", "configs/data/x.yaml", "tests/runs/x.py"])
def test_only_the_folders_at_the_top_are_meant(excluded, path):
    assert not excluded(path)

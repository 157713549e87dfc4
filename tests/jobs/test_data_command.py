import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]


def run(tmp_path, *arguments, **environment):
    command = [sys.executable, "-m", "jobs.data", f"storage={tmp_path / 'runs'}", *arguments]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=60, env={**os.environ, **environment}
    )


def run_folder(tmp_path, *arguments, **environment):
    options = ("dataset=folder", f"dataset.path={tmp_path / 'data'}", "dataset.image_size=8", "encoder=resnet18")
    return run(tmp_path, *options, *arguments, **environment)


def save(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def birds(tmp_path):
    """30 robins and 5 wrens for training, 4 images without a label, 3 + 3 for test, one of them a training image."""
    for part, robins, wrens in (("train", 30, 5), ("test", 3, 3)):
        for name, count in (("robin", robins), ("wren", wrens)):
            for index in range(count):
                save(tmp_path / "data" / part / name / f"{index}.png", seed_of(part, name, index))
    for index in range(4):
        save(tmp_path / "data" / "unlabelled" / f"{index}.png", 9000 + index)
    save(tmp_path / "data" / "test" / "wren" / "2.png", seed_of("train", "robin", 7))
    (tmp_path / "data" / "train" / "robin" / "notes.txt").write_text("text")
    (tmp_path / "data" / "train" / "wren" / "broken.png").write_bytes(b"no image")
    return tmp_path


def seed_of(part, name, index):
    return 1000 * ("train", "test").index(part) + 100 * ("robin", "wren").index(name) + index


def table_of(output):
    lines = output.splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("class "))
    end = next(number for number, line in enumerate(lines) if line.startswith("total "))
    header, *rows = (line.rsplit(maxsplit=4) for line in lines[start : end + 1])
    assert header == ["class", "labelled", "unlabelled", "validation", "test"]
    return {name: counts for name, *counts in rows}


def test_digits(tmp_path):
    done = run(tmp_path, "dataset=digits", "--verify")
    assert done.returncode == 0, done.stderr
    table = table_of(done.stdout)
    assert table["total"] == ["100", "1,347", "50", "400"] and table["3"] == ["10", "137", "5", "41"]
    assert len(table) == 11
    assert "digits, 1,797 images of 32 x 32 x 3\n" in done.stdout
    assert f"{tmp_path}/runs/stores/digits-32-v1.1, 5.55 MB\nfingerprint:    " in done.stdout
    assert "files skipped:  none" in done.stdout and "corrupt images: none" in done.stdout
    assert "verified: all 4 files" in done.stdout and "Exact duplicates across splits: none" in done.stdout


def test_folder(birds):
    done = run_folder(
        birds, "dataset.labels_per_class=2", "dataset.validation_per_class=1", "dataset.corrupt_quota=0.1"
    )
    assert done.returncode == 0, done.stderr
    assert table_of(done.stdout) == {
        "robin": ["2", "29", "1", "3"],
        "wren": ["2", "4", "1", "3"],
        "(no label)": ["0", "4", "0", "0"],
        "total": ["4", "37", "2", "6"],
    }
    assert "files skipped:  1 not images" in done.stdout
    assert "corrupt images: 1, left out: train/wren/broken.png" in done.stdout
    assert "Training images: 4 of wren to 29 of robin, 7.2 to 1" in done.stdout
    assert "Exact duplicates across splits: 1\n  test/wren/2.png (test) = train/robin/7.png (" in done.stdout
    assert "verified" not in done.stdout


def test_unequal_classes(birds):
    done = run_folder(birds, "dataset.corrupt_quota=0.1")
    assert done.returncode == 0, done.stderr
    assert "Labelled batches hold equal shares of their classes: an image of wren (5) is drawn 6.0 times" in done.stdout
    assert "Accuracies count" not in done.stdout  # 3 test images of each


def test_labels_that_a_class_does_not_have(birds):
    done = run_folder(
        birds, "dataset.corrupt_quota=0.1", "dataset.labels_per_class=4", "dataset.validation_per_class=2"
    )
    assert done.returncode == 3
    for word in ("'wren' has 5", "dataset.labels_per_class", "dataset.validation_per_class=2 and 4 labelled"):
        assert word in done.stderr


def test_long_lists_are_cut(tmp_path):
    for index in range(60):
        save(tmp_path / "data" / "train" / "a" / f"{index}.png", index)
        save(tmp_path / "data" / "train" / "b" / f"{index}.png", index + 100)
    for index in range(12):
        (tmp_path / "data" / "train" / "a" / f"x{index:02}.png").write_bytes(b"")
        save(tmp_path / "data" / "test" / "a" / f"{index}.png", index)
    done = run_folder(tmp_path, "dataset.corrupt_quota=0.5", "dataset.labels_per_class=1")
    assert done.returncode == 0, done.stderr
    assert "corrupt images: 12, left out: train/a/x00.png, " in done.stdout
    assert "train/a/x09.png, and 2 more\n" in done.stdout and "x10" not in done.stdout
    duplicates = done.stdout.split("Exact duplicates across splits: 12\n")[1].splitlines()
    assert len(duplicates) == 6 and duplicates[-1] == "  and 7 more"


def test_many_classes_are_summed_up(tmp_path):
    for label in range(31):
        for index in range(2 + (label == 4) * 5 + (label > 20)):
            save(tmp_path / "data" / f"c{label:02}" / f"{index}.png", 10 * label + index)
    done = run_folder(tmp_path, "dataset.test_fraction=0")
    assert done.returncode == 0, done.stderr
    assert table_of(done.stdout) == {
        "smallest: c00": ["2", "2", "0", "0"],
        "largest: c04": ["7", "7", "0", "0"],
        "median of 31 classes": ["2", "2", "0", "0"],
        "total": ["77", "77", "0", "0"],
    }


def test_names_that_a_terminal_cannot_show(tmp_path):
    for name in ("日本", os.fsdecode(b"latin-\xe9"), "new\nline"):
        save(tmp_path / "data" / name / "0.png", len(name))
    done = run_folder(tmp_path, "dataset.test_fraction=0", PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    assert {r"\u65e5\u672c", r"latin-\udce9", r"new\nline"} < set(table_of(done.stdout))
    assert "Training images: 1 of every class" in done.stdout


def test_verify_finds_a_flipped_byte(birds):
    assert run_folder(birds, "dataset.corrupt_quota=0.1", "--verify").returncode == 0
    (pixels,) = (birds / "runs" / "stores").glob("folder-8-*/pixels-00000.raw")
    content = bytearray(pixels.read_bytes())
    content[1234] ^= 1
    pixels.write_bytes(content)
    done = run_folder(birds, "dataset.corrupt_quota=0.1", "--verify")
    assert done.returncode == 3 and "verified" not in done.stdout
    assert done.stderr.startswith("error: ") and "pixels-00000.raw should hash to" in done.stderr


def test_impossible_split_still_shows_the_store(birds):
    done = run_folder(birds, "dataset.corrupt_quota=0.1", "dataset.labels_per_class=6")
    assert done.returncode == 3 and "'wren' has 5" in done.stderr
    assert "data set:       folder, 45 images of 8 x 8 x 3" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["dataset=folder", "dataset.path=/nowhere/at/all"], 3, "/nowhere/at/all, found nothing"),
        (["dataset=digits", "dataset.path=/nowhere"], 2, "dataset.path: expected none for dataset.name=digits"),
        (["dataset=folder"], 2, "dataset.path"),
        (["dataset.labels_per_clas=3"], 2, "did you mean dataset.labels_per_class"),
        (["dataset=digitz"], 2, "digits"),
        (["dataset.image_size=0"], 2, "dataset.image_size"),
    ],
)
def test_errors_are_one_line_with_their_exit_code(tmp_path, arguments, code, message):
    done = run(tmp_path, *arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.startswith("error: ") and message in done.stderr and done.stderr.count("\n") == 1
    assert not (tmp_path / "runs" / "stores").exists()

"""Test curves of kept checkpoints, who may read them, and the pictures."""

import json
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

from jobs import curves, drawings
from jobs.curves import read_test_curves
from jobs.folder import RunFolder
from jobs.pictures import Curve, draw_accuracy, draw_map
from jobs.trained import Trained

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def rows(trained_run):
    curves.measure_every_epoch(Trained(RunFolder(trained_run.path)), ["knn20", "classifier"], print)
    return read_test_curves(trained_run.path)


def test_every_epoch_is_measured_as_the_run_measures(trained_run, rows):
    assert [(row["step"], row["epoch"], row["protocol"]) for row in rows] == [
        (4 * epoch, epoch, protocol) for epoch in (1, 2, 3) for protocol in ("classifier", "knn20")
    ]
    summary = json.loads((trained_run.path / "summary.json").read_text())
    for row in rows:
        assert row["interval"][0] <= row["accuracy"] <= row["interval"][1] and row["images"] == 60
        if row["epoch"] == summary["epoch"]:
            assert row["accuracy"] == summary["test"][row["protocol"]]["accuracy"]
    assert len({row["accuracy"] for row in rows}) > 2  # the epochs differ


def test_it_resumes_and_does_not_believe_another_checkpoint(run_copy, command, monkeypatch):
    words = ["jobs.evaluate", run_copy.path, "--every-epoch", "protocols=knn20"]
    done = command(*words)
    assert done.code == 0 and done.out.count("\nepoch ") == 3 and "3 of 3 epochs are kept" in done.out
    file = run_copy.path / "test_curves.jsonl"
    whole = file.read_text()
    lines = whole.splitlines(keepends=True)
    other = json.dumps({**json.loads(lines[2]), "checkpoint": "of an earlier run", "accuracy": 2.0})
    file.write_text(lines[0] + other + "\n" + lines[1][:20])  # epoch 3 of another run, epoch 2 cut short
    done = command(*words)
    assert done.out.count("\nepoch ") == 2 and file.read_text() == whole
    monkeypatch.setattr(curves, "build_training", lambda *_: pytest.fail("nothing was to be measured"))
    assert "nothing new" in command(*words).out


def test_only_plot_reads_test_curves():
    """Selection cannot open the file: whatever trains, selects, evaluates or lists does not even load its module."""
    training = ["driver", "worker", "leader", "selection", "report", "evaluation", "embedding", "run_list"]
    program = (
        f"import sys; {'; '.join(f'import jobs.{name}' for name in training)}; sys.exit('jobs.curves' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True).returncode == 0
    sources = {path: path.read_text() for folder in ("jobs", "semisup_core") for path in (ROOT / folder).rglob("*.py")}
    naming = {path.stem for path, text in sources.items() if "test_curves.jsonl" in text or "curves import" in text}
    assert naming == {"curves", "evaluate", "drawings", "folder"}
    assert sources[ROOT / "jobs" / "folder.py"].count("test_curves.jsonl") == 1  # to send it along, unread
    assert "read_test_curves" not in sources[ROOT / "jobs" / "evaluate.py"]


def colours(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).reshape(-1, 3)


def test_one_run_gets_all_its_pictures(trained_run, rows, command):
    done = command("jobs.plot", trained_run.path, "points=60", "protocols=knn20")
    assert done.code == 0, done.err
    names = ["accuracy.png", "map.png", "confusion_knn20.png", "neighbours.png"]
    assert done.out.splitlines() == [f"written: {trained_run.path / 'pictures' / name}" for name in names]
    for name in names:
        assert len(np.unique(colours(trained_run.path / "pictures" / name), axis=0)) > 20


def test_several_runs_are_drawn_into_one_picture(trained_run, rows, run_copy, command, tmp_path):
    done = command("jobs.plot", trained_run.path, run_copy.path, f"output={tmp_path / 'both.png'}")
    assert done.code == 0 and (tmp_path / "both.png").exists(), done.err
    done = command("jobs.plot", trained_run.path, run_copy.path, "output=both")
    assert done.code == 2 and ".png" in done.err
    done = command("jobs.plot", trained_run.path, run_copy.path, "protocols=soft_nn", f"output={tmp_path / 'x.png'}")
    assert done.code == 2 and "--every-epoch" in done.err and not (tmp_path / "x.png").exists()


def test_curves_of_test_and_validation_in_the_order_of_protocols(trained_run, rows, run_copy, monkeypatch):
    drawn = {}
    monkeypatch.setattr(drawings, "draw_accuracy", lambda panels, path: drawn.update(panels))
    folders = [RunFolder(trained_run.path), RunFolder(run_copy.path)]
    drawings.draw_runs(folders, [], trained_run.path / "unused.png", needed=True)
    assert list(drawn) == ["knn20", "classifier"]  # the protocols with test curves, knn20 first
    test, validation, other = drawn["knn20"]
    assert test.label == validation.label == str(trained_run.path) and other.label == str(run_copy.path)
    assert list(test.epochs) == [1, 2, 3] and other.intervals is None
    assert list(test.accuracies) == [row["accuracy"] for row in rows if row["protocol"] == "knn20"]
    assert validation.intervals is None and list(validation.epochs) == [1, 2, 3]


def test_an_unfinished_run_still_has_its_accuracy(run_copy, command):
    (run_copy.path / "encoder.keras").unlink()
    done = command("jobs.plot", run_copy.path)
    assert done.code == 0 and done.out.splitlines() == [f"written: {run_copy.path / 'pictures' / 'accuracy.png'}"]


def test_neighbours_are_the_most_similar_labelled_images(trained_run):
    trained = Trained(RunFolder(trained_run.path))
    store, split = trained.store, trained.split
    encoder = keras.saving.load_model(trained_run.path / "encoder.keras")
    bank = encoder.predict(store.read(split.labelled), verbose=0)
    for strip in drawings._strips(trained, split.test, seed=0):
        query = encoder.predict(strip.images[:1], verbose=0)[0]
        cosines = bank @ query / np.linalg.norm(bank, axis=1) / np.linalg.norm(query)
        nearest = np.sort(cosines)[::-1][:7]
        assert np.allclose(strip.cosines, nearest, atol=1e-5)
        for image, name, cosine in zip(strip.images[1:], strip.names[1:], nearest, strict=True):
            equals = split.labelled[np.abs(cosines - cosine) < 1e-5]  # rounding decides between equals
            shown = [np.array_equal(image, other) for other in store.read(equals)]
            assert name in [store.class_names[label] for label in store.labels[equals[shown]]]
        assert strip.right.tolist() == [name == strip.names[0] for name in strip.names[1:]]


def test_unlabelled_points_are_gray_and_classes_are_not(tmp_path):
    points = np.random.default_rng(0).normal(size=(400, 2))
    gray = (187, 187, 187)
    for labels, expected in ((np.full(400, -1), True), (np.zeros(400, int), False)):
        draw_map({"PCA": points}, labels, ["a", "$b"], "title", tmp_path / "map.png")
        found = (colours(tmp_path / "map.png") == gray).all(axis=1).sum() > 400
        assert found == expected


def test_many_panels_are_wrapped(tmp_path):
    curve = Curve("a $run$", [1, 2], [0.1, 0.5], [[0.0, 0.2], [0.4, 0.6]])
    draw_accuracy({f"p{i}": [curve] for i in range(4)}, tmp_path / "wide.png")
    with Image.open(tmp_path / "wide.png") as image:
        assert image.size[0] < 2 * image.size[1] * 1.2

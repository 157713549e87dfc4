"""`jobs.evaluate` on a finished run: its numbers against scikit-learn's, its cache, and data that moved or changed."""

import json
import shutil

import keras
import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import balanced_accuracy_score, classification_report, confusion_matrix

from jobs.evaluation_report import evaluation_text
from jobs.folder import RunFolder
from jobs.schema import PROTOCOLS
from jobs.trained import Trained
from semisup_core.evaluation.embed import Embedder
from semisup_core.evaluation.knn import neighbour_shares
from semisup_core.evaluation.scores import class_scores, confusion


@pytest.fixture(scope="module")
def opened(trained_run):
    return Trained(RunFolder(trained_run.path))


def by_hand(trained_run, opened):
    """Labels and 20-NN predictions of the test images, from the saved files alone."""
    encoder = keras.saving.load_model(trained_run.path / "encoder.keras")
    store, split = opened.store, opened.split
    bank, queries = (encoder.predict(store.read(rows), verbose=0) for rows in (split.labelled, split.test))
    shares = neighbour_shares(bank, store.labels[split.labelled], queries, k=20, temperature=None, num_classes=3)
    return store.labels[split.test], shares.argmax(axis=1)


def test_report_is_scikit_learns_and_the_runs_own(trained_run, opened, command):
    done = command("jobs.evaluate", "tiny", f"storage={trained_run.storage}")
    assert done.code == 0, done.err
    report = json.loads((trained_run.path / "evaluation.json").read_text())
    assert set(report["protocols"]) == set(PROTOCOLS) and report["labelled_images"] == 90
    summary = json.loads((trained_run.path / "summary.json").read_text())
    for protocol, row in summary["test"].items():
        shared = {key: report["protocols"][protocol][key] for key in row}
        assert shared == row
    labels, predicted = by_hand(trained_run, opened)
    ours = report["protocols"]["knn20"]
    theirs = classification_report(labels, predicted, output_dict=True, zero_division=0.0)
    assert ours["accuracy"] == theirs["accuracy"] and ours["interval"][0] < ours["accuracy"] < ours["interval"][1]
    assert ours["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(labels, predicted))
    assert ours["confusion"] == confusion_matrix(labels, predicted).tolist()
    for label, row in enumerate(ours["classes"]):
        expected = theirs[str(label)]
        assert [row["precision"], row["recall"], row["f1"], row["images"]] == [
            pytest.approx(expected[key]) for key in ("precision", "recall", "f1-score", "support")
        ]
    assert [row["class"] for row in ours["classes"]] == list(opened.store.class_names)
    assert len(list((trained_run.path / "pictures").glob("confusion_*.png"))) == len(PROTOCOLS)
    table = done.out.splitlines()[2]
    assert table.split() == ["knn20", f"{ours['accuracy']:.4f}", "{:.3f}-{:.3f}".format(*ours["interval"])] + [
        f"{ours['balanced_accuracy']:.4f}"
    ]
    assert "Each class under classifier" in done.out and "löwe, 名" in done.out and "Confusion under" in done.out


def test_protocols_and_pool_are_chosen(trained_run, command):
    done = command("jobs.evaluate", trained_run.path, "protocols=soft_nn,linear", "pool=validation")
    assert done.code == 0, done.err
    report = json.loads((trained_run.path / "evaluation-validation.json").read_text())
    assert list(report["protocols"]) == ["soft_nn", "linear"] and report["protocols"]["linear"]["images"] == 15
    assert "Each class under soft_nn" in done.out and "15 validation images" in done.out


def test_the_second_pass_is_read_and_another_encoder_is_not_taken_for_it(run_copy, monkeypatch):
    run = Trained(RunFolder(run_copy.path))
    first = run.features(run.split.test)
    monkeypatch.setattr(Embedder, "__call__", lambda *_: pytest.fail("embedded again"))
    assert np.array_equal(Trained(run.folder).features(run.split.test), first)
    monkeypatch.undo()
    encoder = keras.saving.load_model(run.folder.encoder)
    encoder.set_weights([weight * 1.5 for weight in encoder.get_weights()])
    encoder.save(run.folder.encoder)
    again = Trained(run.folder)
    assert not np.allclose(again.features(run.split.test), first)
    kept = list((run_copy.path / "embeddings").iterdir())
    assert len(kept) == 1 and kept[0].name.startswith(again.encoder_hash[:16])
    kept[0].write_bytes(kept[0].read_bytes()[:100])  # cut short
    assert np.array_equal(Trained(run.folder).features(run.split.test), again.features(run.split.test))


def test_data_may_have_moved_but_not_changed(run_copy, command, tmp_path):
    moved = tmp_path / "moved"
    shutil.copytree(run_copy.data, moved)
    words = ["jobs.evaluate", run_copy.path, "protocols=knn20"]
    before = command(*words)
    shutil.rmtree(run_copy.storage / "stores")
    done = command(*words, f"dataset.path={moved}")
    assert done.code == 0 and done.out == before.out
    shutil.rmtree(run_copy.storage / "stores")
    changed = next((moved / "train").rglob("*.png"))
    Image.new("RGB", (32, 32), "red").save(changed)
    done = command(*words, f"dataset.path={moved}")
    assert done.code == 3 and "expected the images that tiny was trained on" in done.err
    done = command(*words, f"dataset.path={tmp_path / 'nowhere'}")
    assert done.code == 3 and "dataset.path=FOLDER" in done.err


def test_a_split_that_no_longer_comes_out_is_refused(run_copy, command):
    file = run_copy.path / "split.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "hash": "0" * 64}))
    done = command("jobs.evaluate", run_copy.path)
    assert done.code == 3 and "split.json" in done.err
    file.write_text("{")
    assert command("jobs.evaluate", run_copy.path).code == 3


@pytest.mark.parametrize(
    "words, expected",
    [
        (["tinny"], "did you mean tiny?"),
        (["tiny", "protocols=knn21"], "did you mean knn20?"),
        (["tiny", "protocol=knn20"], "did you mean protocols?"),
        (["tiny", "pool=train"], "test or validation"),
        (["tiny", "other"], "expected RUN, got tiny other"),
        ([], "expected RUN, got nothing"),
    ],
)
def test_what_is_misspelt_is_answered_with_what_is_right(trained_run, command, words, expected):
    done = command("jobs.evaluate", *words, f"storage={trained_run.storage}")
    assert done.code == 2 and expected in done.err


def test_a_run_without_encoder_or_classifier_says_so(run_copy, command):
    (run_copy.path / "classifier.keras").unlink()
    done = command("jobs.evaluate", run_copy.path, "protocols=classifier")
    assert done.code == 2 and "no classifier.keras" in done.err
    (run_copy.path / "encoder.keras").write_bytes(b"damaged")
    assert command("jobs.evaluate", run_copy.path).code == 3
    (run_copy.path / "encoder.keras").unlink()
    done = command("jobs.evaluate", run_copy.path)
    assert done.code == 2 and "python -m jobs.runs" in done.err


def test_many_classes_are_cut_to_the_worst_and_the_most_confused():
    labels = np.repeat(np.arange(40), 5)
    predicted = labels.copy()
    predicted[labels == 17] = 3  # all of one class taken for another
    predicted[0] = 1
    counts = confusion(labels, predicted, 40)
    row = {"accuracy": 0.97, "interval": (0.9, 0.99), "balanced_accuracy": 0.97, "images": 200, "note": ""}
    result = {**row, "classes": class_scores(labels, predicted, 40), "confusion": counts}
    text = evaluation_text("run", "test", [f"name{i}" for i in range(40)], {"knn20": result}, "linear", "here")
    lines = [line.split() for line in text.splitlines()]
    table = next(i for i, line in enumerate(lines) if line[:2] == ["class", "precision"])
    assert lines[table + 1] == ["name17", "0.000", "0.000", "0.000", "5"] and lines[table + 2][0] == "name0"
    assert "30 classes with the lowest recall" in text
    assert lines[-4:-2] == [["name17", "name3", "5"], ["name0", "name1", "1"]]


def test_on_the_command_line_only_the_report_is_seen(cli, trained_run):
    done = cli("jobs.evaluate", "tiny", f"storage={trained_run.storage}", "protocols=knn20")
    assert done.returncode == 0 and done.stderr == "" and done.stdout.startswith("tiny: 60 test images of 3 classes")
    done = cli("jobs.evaluate", "tinny", f"storage={trained_run.storage}")
    assert done.returncode == 2 and "Traceback" not in done.stderr

"""`jobs.embed`: what is in the table is what the saved encoder says of each image."""

import keras
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from PIL import Image

from jobs import embedding
from jobs.folder import RunFolder
from jobs.trained import Trained
from semisup_core.data.images import decode


@pytest.fixture(scope="module")
def new_images(tmp_path_factory, trained_run):
    """Seven images at several depths, one of another size, and files that are none or damaged."""
    folder = tmp_path_factory.mktemp("new")
    sources = sorted((trained_run.data / "test").rglob("*.png"))[::9][:6]
    (folder / "deep" / "er").mkdir(parents=True)
    for i, source in enumerate(sources):
        place = (folder, folder / "deep", folder / "deep" / "er")[i % 3]
        (place / f"image, {i}.png").write_bytes(source.read_bytes())
    Image.effect_noise((90, 50), 80).convert("RGB").save(folder / "wide.jpg")
    (folder / "deep" / "broken.png").write_bytes(b"no image")
    (folder / "cut.png").write_bytes(sources[0].read_bytes()[:300])
    (folder / "notes.txt").write_text("text")
    (folder / ".hidden.png").write_bytes(b"ignored")
    return folder


def test_parquet_holds_embedding_prediction_and_neighbours(trained_run, new_images, tmp_path, command, monkeypatch):
    monkeypatch.setattr(embedding, "BATCH", 3)  # several row groups
    output = tmp_path / "out" / "table.parquet"
    done = command("jobs.embed", trained_run.path, new_images, f"output={output}", "neighbours=4")
    assert done.code == 0, done.err
    table = pd.read_parquet(output)
    assert list(table["path"]) == sorted(
        str(path.relative_to(new_images)) for path in new_images.rglob("*.[pj]*g") if path.name[0] not in ".bc"
    )
    trained = Trained(RunFolder(trained_run.path))
    store, split, names = trained.store, trained.split, trained.store.class_names
    encoder = keras.saving.load_model(trained_run.path / "encoder.keras")
    images = np.stack([decode(new_images / path, 32) for path in table["path"]])
    features = encoder.predict(images, verbose=0)
    assert np.allclose(np.stack(table["embedding"]), features, rtol=1e-4, atol=1e-4)
    classes, confidence = trained.predictor("knn20").predict(np.stack(table["embedding"]))
    assert list(table["predicted"]) == [names[label] for label in classes]
    assert np.allclose(table["confidence"], confidence)
    bank = encoder.predict(store.read(split.labelled), verbose=0)
    cosines = features @ bank.T / np.linalg.norm(features, axis=1)[:, None] / np.linalg.norm(bank, axis=1)
    for i, row in table.iterrows():
        assert np.allclose(row["neighbour_similarities"], np.sort(cosines[i])[::-1][:4], atol=1e-5)
        for name, class_name in zip(row["neighbours"], row["neighbour_classes"], strict=True):
            assert name.split("/")[:2] == ["train", class_name] and (trained_run.data / name).exists()
    assert pq.ParquetFile(output).num_row_groups == 3
    assert pq.read_schema(output).metadata[b"protocol"] == b"knn20"
    bad = (tmp_path / "out" / "table.parquet.bad.txt").read_text().splitlines()
    assert [line.split("\t")[0] for line in bad] == ["cut.png", "deep/broken.png"]
    assert "its content is no image" in bad[1] and "OSError" in bad[0]
    assert "7 images" in done.out and "2 images cannot be read" in done.out and "1 other files skipped" in done.out


def test_csv_says_the_same_and_the_classifier_can_predict(trained_run, new_images, tmp_path, command):
    for ending in ("csv", "parquet"):
        words = [f"output={tmp_path / 'table'}.{ending}", "predict=classifier", "neighbours=2"]
        assert command("jobs.embed", trained_run.path, new_images, *words).code == 0
    flat, nested = pd.read_csv(tmp_path / "table.csv"), pd.read_parquet(tmp_path / "table.parquet")
    for column in ("path", "predicted"):
        assert list(flat[column]) == list(nested[column])
    assert np.allclose(flat["confidence"], nested["confidence"])
    assert np.allclose(flat[[f"e{i}" for i in range(8)]], np.stack(nested["embedding"]))
    for i in range(2):
        assert list(flat[f"neighbour{i + 1}"]) == [names[i] for names in nested["neighbours"]]
        assert list(flat[f"class{i + 1}"]) == [names[i] for names in nested["neighbour_classes"]]
        assert np.allclose(flat[f"similarity{i + 1}"], [values[i] for values in nested["neighbour_similarities"]])
    classifier = keras.saving.load_model(trained_run.path / "classifier.keras")
    predicted = classifier.predict(np.stack(nested["embedding"]), verbose=0).argmax(axis=1)
    names = Trained(RunFolder(trained_run.path)).store.class_names
    assert list(nested["predicted"]) == [names[label] for label in predicted]


def test_nothing_is_left_where_writing_fails(trained_run, new_images, tmp_path, command, monkeypatch):
    output = tmp_path / "table.parquet"
    output.write_text("the earlier one")
    monkeypatch.setattr(embedding, "nearest", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        command("jobs.embed", trained_run.path, new_images, f"output={output}")
    assert [path.name for path in tmp_path.iterdir()] == ["table.parquet"] and output.read_text() == "the earlier one"


def test_folders_without_an_image_are_errors(trained_run, tmp_path, command):
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "broken.png").write_bytes(b"no image")
    for name, words in (("nowhere", "found nothing"), ("empty", "found none"), ("bad", "none of its 1 images")):
        done = command("jobs.embed", trained_run.path, tmp_path / name)
        assert done.code == 3 and words in done.err
    assert not (trained_run.path / "embedded" / "bad.parquet").exists()


@pytest.mark.parametrize(
    "words, expected",
    [
        (["output=table.xlsx"], ".parquet or .csv"),
        (["output=s3://bucket/table.csv"], "output: expected a file"),
        (["predict=knn"], "did you mean"),
        (["predict=knn20,linear"], "predict: expected one of"),
        (["neighbours=0"], "from 1 to 1000"),
        (["neighbors=3"], "did you mean neighbours?"),
    ],
)
def test_options_are_checked(trained_run, new_images, command, words, expected):
    done = command("jobs.embed", trained_run.path, new_images, *words)
    assert done.code == 2 and expected in done.err

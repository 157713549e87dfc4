"""Data sets of TensorFlow Datasets, by name, downloaded when they are not there yet.

Reading needs no TensorFlow: records are parsed with NumPy and decoded like image files. So a driver that prepares
data takes no memory on the GPUs that its workers use, and may set up its devices afterwards.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from semisup_core.data.images import DECODE_VERSION, decode
from semisup_core.data.manifest import Origin
from semisup_core.data.sources import Found, Source, number_classes
from semisup_core.data.tfds_builder import open_builder
from semisup_core.errors import DataError

FORMATS = ("tfrecord", "array_record")
# A TFRecord is its length, a checksum of that, the bytes, and a checksum of those.
_HEAD, _TAIL = struct.Struct("<QI"), 4


class _Part(NamedTuple):
    """A split that is used, and as what."""

    origin: Origin
    split: str
    info: Any


def tfds(
    tfds_name: str,
    train_split: str,
    image_size: int,
    test_split: str | None = None,
    unlabelled_split: str | None = None,
    path: str | Path | None = None,
) -> Found:
    """A data set of TensorFlow Datasets.

    Args:
        tfds_name: ``name``, ``name/config`` or ``name:version``; registered with tfds, or written into ``path`` by it.
        train_split: a split, or a slice or sum of them ("train[:10%]"); images whose label is -1 are unlabelled.
        image_size: height and width of the stored images.
        test_split: the same for test images.
        unlabelled_split: the same for images without labels; their labels are not read.
        path: the data_dir of tfds; None = its own default.

    Raises:
        DataError: an unknown name, one that cannot be downloaded, an unknown split, splits that share images, or
            features that are no image and label.
    """
    builder = open_builder(tfds_name, path)
    _check_format(builder)
    chosen = {Origin.TRAIN: train_split, Origin.UNLABELLED: unlabelled_split, Origin.TEST: test_split}
    parts = [_part(builder, origin, split) for origin, split in chosen.items() if split]
    _check_disjoint(parts)
    keys = _feature_keys(builder)
    described = f"{DECODE_VERSION} {image_size} {builder.info.full_name} {builder.data_path} {chosen}\n"
    for file in sorted(Path(builder.data_path).iterdir()):
        described += f"{file.name}\0{file.stat().st_size} {file.stat().st_mtime_ns}\n"
    key = hashlib.sha256(os.fsencode(described)).hexdigest()
    return Found(key, partial(_source, builder, parts, *keys, image_size))


def _source(builder: Any, parts: Sequence[_Part], image: str, label: str, image_size: int) -> Source:
    counts = [part.info.num_examples for part in parts]
    origins = np.repeat([part.origin for part in parts], counts).astype(np.int8)
    known = np.full(len(origins), -1, np.int64)
    labelled = [part for part in parts if part.origin != Origin.UNLABELLED]
    known[origins != Origin.UNLABELLED] = [example[label] for example in _examples(builder, labelled, image)]
    origins[(known < 0) & (origins == Origin.TRAIN)] = Origin.UNLABELLED
    names = getattr(builder.info.features[label], "names", None)
    class_names, labels = (tuple(names), known.astype(np.int32)) if names else number_classes(known)
    return Source(
        name=f"tfds {builder.info.full_name}",
        class_names=class_names,
        labels=labels,
        origins=origins,
        names=[f"{part.split}/{row}" for part, count in zip(parts, counts, strict=True) for row in range(count)],
        image_shape=(image_size, image_size, 3),
        items=lambda: (example[image] for example in _examples(builder, parts, image)),
        load=partial(decode, image_size=image_size),
        skipped={"not_images": 0},
    )


def _check_format(builder: Any) -> None:
    if builder.info.file_format.value not in FORMATS:
        raise DataError(
            f"expected {builder.info.full_name} in the file format {' or '.join(FORMATS)}, it is in "
            f"{builder.info.file_format.value}; convert {builder.data_path} with 'tfds convert_format'"
        )


def _part(builder: Any, origin: Origin, split: str) -> _Part:
    try:
        info = builder.info.splits[split]
        if info.num_examples:
            return _Part(origin, split, info)
        reason = "it has no images"
    except Exception as error:  # a parser of slices raises what it meets
        reason = str(error)
    raise DataError(
        f"dataset.{origin.name.lower()}_split: cannot use {split!r} of {builder.info.full_name} ({reason}); expected "
        f"{', '.join(builder.info.splits)}, a slice such as train[:10%], or null for none"
    )


def _check_disjoint(parts: Sequence[_Part]) -> None:
    taken: list[tuple[str, int, int, str]] = []
    for part in parts:
        for piece in part.info.file_instructions:
            start, end = piece.skip, piece.skip + piece.take
            for file, other_start, other_end, split in taken:
                if file == str(piece.filename) and start < other_end and other_start < end:
                    raise DataError(
                        f"the splits {split} and {part.split} share images; take slices that do not, such as "
                        "train[:80%] and train[80%:] (a part of the labels: dataset.label_fraction)"
                    )
            taken.append((str(piece.filename), start, end, part.split))


def _feature_keys(builder: Any) -> tuple[str, str]:
    """Names of the image and the label: those that tfds calls supervised, else image and label."""
    import tensorflow_datasets

    features, kinds = builder.info.features, tensorflow_datasets.features
    for image, label in (builder.info.supervised_keys or ("image", "label"), ("image", "label")):
        if image not in features or label not in features or not isinstance(features[image], kinds.Image):
            continue
        whole = np.issubdtype(features[label].np_dtype, np.integer) and features[label].shape == ()
        if whole and features[image].np_dtype in (np.uint8, np.uint16):
            return image, label
    found = ", ".join(f"{name} ({type(feature).__name__})" for name, feature in sorted(features.items()))
    raise DataError(f"expected an image of uint8 and a label in {builder.info.full_name}, its features are {found}")


def _examples(builder: Any, parts: Sequence[_Part], image: str) -> Iterator[dict[str, Any]]:
    """The examples of some splits in their order on disk, the image as it is encoded."""
    import tensorflow_datasets

    skip = {image: tensorflow_datasets.decode.SkipDecoding()}
    try:
        for part in parts:
            for record in _records(builder, part):
                yield builder.info.features.deserialize_example_np(record, decoders=skip)
    except Exception as error:  # parsers raise whatever a damaged file makes of their work
        raise DataError(
            f"the files of {builder.info.full_name} in {builder.data_path} are damaged or incomplete ({error}); "
            "remove that folder, and get or write the data set again"
        ) from error


def _records(builder: Any, part: _Part) -> Iterator[bytes]:
    import tensorflow_datasets

    if builder.info.file_format.value == "tfrecord":
        for piece in part.info.file_instructions:
            yield from islice(_tfrecords(piece.filename), piece.skip, piece.skip + piece.take)
    else:
        raw = tensorflow_datasets.decode.DeserializeMethod.RAW_BYTES
        yield from builder.as_data_source(part.split, deserialize_method=raw)


def _tfrecords(path: str) -> Iterator[bytes]:
    with open(path, "rb") as file:
        while head := file.read(_HEAD.size):
            length, _ = _HEAD.unpack(head)
            record = file.read(length)
            if len(record) + len(file.read(_TAIL)) < length + _TAIL:
                raise ValueError(f"{path} ends within a record")
            yield record

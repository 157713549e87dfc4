"""NumPy arrays of images and labels, in an .npz file or in memory."""

from __future__ import annotations

import hashlib
import os
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from semisup_core.data.images import DECODE_VERSION, from_pixels
from semisup_core.data.manifest import Origin
from semisup_core.data.sources import ORIGINS, Found, Source, number_classes
from semisup_core.errors import DataError

KNOWN = ("images", "labels", "splits", "class_names")


def arrays(path: str | Path, image_size: int) -> Found:
    """An .npz file with ``images`` and ``labels``, optionally ``splits`` and ``class_names``; see `array_source`.

    Images are read one by one, also from a compressed file, so it may be larger than the memory. Nothing in it is
    unpickled.

    Raises:
        DataError: no such file, no .npz, or arrays that `array_source` refuses.
    """
    file = Path(path).expanduser().resolve()
    try:
        stat = file.stat()
        shape, dtype = _header(file)
        with np.load(file, allow_pickle=False) as archive:
            given = {name: archive[name] for name in KNOWN[1:] if name in archive}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(
            f"expected an .npz file with the arrays images and labels at {path}: {error}; write one with "
            "numpy.savez(FILE, images=images, labels=labels)"
        ) from error
    if "labels" not in given:
        raise DataError(f"{path} has no array labels; give one of {shape[0]:,} integers, -1 = no label")
    described = f"{DECODE_VERSION} {image_size} {stat.st_size} {stat.st_mtime_ns}\n".encode() + os.fsencode(file)
    key = hashlib.sha256(described).hexdigest()
    return Found(key, partial(_source, partial(_streamed, file), shape, dtype, image_size=image_size, **given))


def array_source(
    images: NDArray[np.uint8],
    labels: ArrayLike,
    image_size: int,
    splits: ArrayLike | None = None,
    class_names: ArrayLike | None = None,
) -> Source:
    """A source of arrays in memory, for `write_store`.

    Args:
        images: (N, H, W), (N, H, W, 1) or (N, H, W, 3) uint8.
        labels: (N,) integers, -1 = no label.
        image_size: height and width of the stored images; see `images.from_pixels`.
        splits: (N,) of "train", "test" and "unlabelled"; None = all for training. A training image without a label is
            an unlabelled one, and the label of an unlabelled image is not used.
        class_names: (C,) names of labels 0 .. C-1; None = the numbers that occur.

    Raises:
        DataError: another shape, type or value.
    """
    images = np.asarray(images)
    return _source(
        lambda: images,
        images.shape,
        images.dtype,
        labels,
        image_size=image_size,
        splits=splits,
        class_names=class_names,
    )


def _source(
    items: Callable[[], Iterable[NDArray[np.uint8]]],
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    labels: ArrayLike,
    *,
    image_size: int,
    splits: ArrayLike | None = None,
    class_names: ArrayLike | None = None,
) -> Source:
    _check_images(shape, dtype)
    count = shape[0]
    known = _column("labels", labels, count, "iu").astype(np.int64)
    origins = _origins(splits, count)
    if (known < -1).any():
        raise DataError(f"labels: expected -1 (no label) or a class number, got {known.min()}")
    mute = np.flatnonzero((known < 0) & (origins == Origin.TEST))
    if len(mute):
        first = ", ".join(f"images[{row}]" for row in mute[:5])
        raise DataError(
            f"{len(mute):,} images for test without a label; give one, or make them unlabelled: {first}"
            f"{', …' * (len(mute) > 5)}"
        )
    origins[(known < 0) & (origins == Origin.TRAIN)] = Origin.UNLABELLED
    known[origins == Origin.UNLABELLED] = -1
    names, numbers = _named(known, class_names)
    return Source(
        name="arrays",
        class_names=names,
        labels=numbers,
        origins=origins,
        names=[f"images[{row}]" for row in range(count)],
        image_shape=(image_size, image_size, 3),
        items=items,
        load=partial(from_pixels, image_size=image_size),
        skipped={"not_images": 0},
    )


def _check_images(shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    wanted = "images: expected (N, H, W), (N, H, W, 1) or (N, H, W, 3) of uint8 in 0 .. 255"
    if dtype != np.uint8:
        raise DataError(f"{wanted}, got {dtype}; of floats in 0 .. 1 make (255 * images).round().astype('uint8')")
    if len(shape) not in (3, 4) or shape[3:] not in ((), (1,), (3,)) or 0 in shape:
        raise DataError(f"{wanted}, got the shape {shape}; transpose them to channels last, one or more images")


def _column(name: str, values: ArrayLike, count: int, kinds: str) -> NDArray[Any]:
    column = np.asarray(values)
    if column.shape != (count,) or column.dtype.kind not in kinds:
        kind = "integers" if "i" in kinds else "texts"
        raise DataError(f"{name}: expected {count:,} {kind}, one an image, got {column.dtype} of shape {column.shape}")
    return column


def _origins(splits: ArrayLike | None, count: int) -> NDArray[np.int8]:
    if splits is None:
        return np.full(count, Origin.TRAIN, np.int8)
    column = _column("splits", splits, count, "U")
    unknown = sorted(set(column.tolist()) - set(ORIGINS))
    if unknown:
        raise DataError(
            f"splits: expected {', '.join(ORIGINS)} for each image, got {', '.join(map(repr, unknown[:5]))}"
        )
    return np.array([ORIGINS[split] for split in column.tolist()], np.int8)


def _named(labels: NDArray[np.int64], class_names: ArrayLike | None) -> tuple[tuple[str, ...], NDArray[np.int32]]:
    if class_names is None:
        return number_classes(labels)
    names = tuple(map(str, np.asarray(class_names).tolist()))
    if len(set(names)) < len(names) or labels.max() >= len(names):
        raise DataError(
            f"class_names: expected a name of its own for each label from 0 to {labels.max()}, got {len(names)} names, "
            f"{len(set(names))} of them different"
        )
    return names, labels.astype(np.int32)


def _header(file: Path) -> tuple[tuple[int, ...], np.dtype[Any]]:
    with zipfile.ZipFile(file) as archive, archive.open("images.npy") as member:
        return _read_header(member)


def _streamed(file: Path) -> Iterator[NDArray[np.uint8]]:
    """The images of a file, one after the other."""
    try:
        with zipfile.ZipFile(file) as archive, archive.open("images.npy") as member:
            shape, _ = _read_header(member)
            size = int(np.prod(shape[1:]))
            for _ in range(shape[0]):
                yield np.frombuffer(member.read(size), np.uint8).reshape(shape[1:])
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{file} is damaged: {error}; write it again") from error


def _read_header(member: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    version = np.lib.format.read_magic(member)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(member)
    if fortran and len(shape) > 1:
        raise ValueError("images are in Fortran order, save numpy.ascontiguousarray(images)")
    return shape, dtype

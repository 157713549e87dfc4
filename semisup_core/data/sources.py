"""Where images come from: a source lists rows and loads one at a time; `prepare` turns it into a store."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from semisup_core.data.splits import apportion
from semisup_core.data.store import Origin, Store, check_quota, write_store
from semisup_core.errors import CorruptImage, DataError

# Part of every key: raise it when the same file would be decoded to other pixels.
DECODE_VERSION = 1
DIGITS_VERSION = 1
DIGITS_TEST_ROWS = 400
# The test images of digits are the same whatever the seed of a run.
DIGITS_TEST_SEED = 1797
# Above 8192 x 8192 a file is more likely a decompression bomb than a photograph; decoded, this fills 200 MB.
MAX_PIXELS = 2**26
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP")
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp")
UNLABELLED_FOLDERS = ("unlabelled", "unlabeled")
ORIENTATION_TAG = 0x0112
ORIENTATIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclasses.dataclass(frozen=True, eq=False)
class Source:
    """A listed data set.

    Attributes:
        name: what the user calls it.
        key: identifies the content without reading the images; part of the name of the store's folder.
        class_names: name of label 0, 1, ...
        labels: (N,) int32, -1 = no label.
        origins: (N,) int8 `Origin` values.
        names: N names for messages, for a folder the path relative to it.
        image_shape: (H, W, C) of every row.
        load: row number -> (H, W, C) uint8; raises `CorruptImage`. Called from several threads.
        skipped: files that are no images of the data set, counted by reason; always has "not_images".
    """

    name: str
    key: str
    class_names: tuple[str, ...]
    labels: NDArray[np.int32]
    origins: NDArray[np.int8]
    names: Sequence[str]
    image_shape: tuple[int, int, int]
    load: Callable[[int], NDArray[np.uint8]]
    skipped: dict[str, int]

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.names)


def digits(image_size: int = 32, path: str | Path | None = None) -> Source:
    """Handwritten digits: the 1,797 images of 8x8 that ship with scikit-learn, as RGB of ``image_size``.

    400 rows, stratified and the same for every run, are `Origin.TEST`; the other 1,397 are `Origin.TRAIN`.

    Raises:
        DataError: a ``path`` is given, which this source does not have.
    """
    if path is not None:
        raise DataError(f"digits ships with scikit-learn and takes no path, got {path}; use folder for it")
    from sklearn.datasets import load_digits

    data = load_digits()
    labels = data.target.astype(np.int32)
    pixels = np.rint(data.images * (255 / 16)).astype(np.uint8)
    origins = np.full(len(labels), Origin.TRAIN, np.int8)
    for digit, rows in enumerate(apportion(np.bincount(labels), DIGITS_TEST_ROWS)):
        order = np.random.default_rng([DIGITS_TEST_SEED, digit]).permutation(np.flatnonzero(labels == digit))
        origins[order[:rows]] = Origin.TEST

    def load(row: int) -> NDArray[np.uint8]:
        image = Image.fromarray(pixels[row]).resize((image_size, image_size), Image.Resampling.BICUBIC)
        return np.asarray(image.convert("RGB"))

    return Source(
        name="digits",
        key=f"v{DIGITS_VERSION}.{DECODE_VERSION}",
        class_names=tuple(map(str, data.target_names)),
        labels=labels,
        origins=origins,
        names=[f"digits/{row}" for row in range(len(labels))],
        image_shape=(image_size, image_size, 3),
        load=load,
        skipped={"not_images": 0},
    )


def folder(path: str | Path | None, image_size: int) -> Source:
    """Image files in class folders.

    Either ``path/train/CLASS/*``, with optional ``path/unlabelled/*`` and ``path/test/CLASS/*``, or
    ``path/CLASS/*``, all of which is `Origin.TRAIN`. Files may lie at any depth inside a class folder. Images
    are JPEG, PNG, BMP, GIF (first frame) and WebP, by extension. Other files, hidden files and folders, links
    that leave the folder, images outside class folders and folders beside the three are counted in
    ``skipped``. See `decode` for what becomes of an image.

    Raises:
        DataError: no such folder, no class folder, no image, a training class without images, or a test class
            that is not in training.
    """
    if path is None:
        raise DataError("the source folder needs a path: a folder of class folders, or one with train/CLASS/*")
    root = Path(path).expanduser().resolve()
    if not root.is_dir():
        found = "a file" if root.exists() else "nothing"
        raise DataError(f"expected a folder of class folders at {path}, found {found}; check the path")
    skipped = Counter({"not_images": 0})
    try:
        class_names, parts = _layout(root, skipped)
        files = [list(_images(root, part.folder, skipped)) for part in parts]
    except OSError as error:
        place = error.filename or root
        raise DataError(f"cannot list {place}: {error.strerror}; check its permissions") from error
    _check_classes(root, parts, files)
    listing = [(part, entry) for part, entries in zip(parts, files, strict=True) for entry in entries]
    names = [os.path.relpath(entry.path, root) for _, entry in listing]

    def load(row: int) -> NDArray[np.uint8]:
        try:
            return decode(root / names[row], image_size)
        except CorruptImage as error:
            raise CorruptImage(f"{names[row]} ({error})") from error

    return Source(
        name="folder",
        key=_listing_key(names, [entry for _, entry in listing], image_size),
        class_names=class_names,
        labels=np.array([part.label for part, _ in listing], np.int32),
        origins=np.array([part.origin for part, _ in listing], np.int8),
        names=names,
        image_shape=(image_size, image_size, 3),
        load=load,
        skipped=dict(skipped),
    )


SOURCES: dict[str, Callable[..., Source]] = {"digits": digits, "folder": folder}


def prepare(
    name: str,
    *,
    path: str | Path | None,
    image_size: int,
    stores: str | Path,
    corrupt_quota: float = 0.01,
    progress: bool = True,
) -> Store:
    """Opens the store of a data set, writing it first where it is new or its files have changed.

    Args:
        name: a key of `SOURCES`.
        path: folder of the data; None for a source that ships with a package.
        image_size: height and width of the stored images.
        stores: folder that holds the stores, each in ``<name>-<image_size>-<key>``.
        corrupt_quota: largest fraction of images that may fail to decode.
        progress: draw a bar on stderr while writing.

    Raises:
        DataError: see the source and `write_store`.
        ValueError: unknown ``name`` or no positive ``image_size``.
    """
    if name not in SOURCES or image_size < 1:
        raise ValueError(f"expected one of {sorted(SOURCES)} and a size above 0, got {name!r}, {image_size}")
    source = SOURCES[name](path=path, image_size=image_size)
    place = Path(stores) / f"{name}-{image_size}-{source.key[:12]}"
    store = write_store(place, source, corrupt_quota=corrupt_quota, progress=progress)
    # A store that was there may have been written under a larger quota than this run allows.
    check_quota(store.manifest.corrupt, len(source), corrupt_quota)
    return store


def decode(path: Path, image_size: int) -> NDArray[np.uint8]:
    """Reads an image as RGB, upright, its shorter side scaled to ``image_size`` and the centre square kept.

    EXIF orientation is applied, transparency laid over white, 16 bits become 8, colour profiles are ignored.

    Returns:
        (image_size, image_size, 3) uint8.

    Raises:
        CorruptImage: no image of `FORMATS`, damaged, or of more than `MAX_PIXELS`.
    """
    try:
        with Image.open(path, formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise CorruptImage(f"{image.width} x {image.height} is more than {MAX_PIXELS:,} pixels")
            orientation = _orientation(image)
            # A JPEG decoder can skip detail that scaling would discard; twice the size keeps it sharp.
            image.draft("RGB", (2 * image_size, 2 * image_size))
            square = ImageOps.fit(_to_rgb(image), (image_size, image_size), Image.Resampling.BICUBIC)
            if orientation in ORIENTATIONS:
                square = square.transpose(ORIENTATIONS[orientation])
            return np.asarray(square)
    except (CorruptImage, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise CorruptImage(f"its content is no image of {', '.join(FORMATS)}") from error
    # Decoders raise whatever a damaged file makes of their parsing: OSError, SyntaxError, struct.error, ...
    except Exception as error:
        raise CorruptImage(f"{type(error).__name__}: {error}") from error


def _orientation(image: Image.Image) -> int | None:
    try:
        return image.getexif().get(ORIENTATION_TAG)
    except Exception:  # damaged metadata says nothing about the pixels
        return None


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        # convert() would clip 16 bits at 255 instead of scaling them.
        image = Image.fromarray(np.clip(np.asarray(image) / 257 + 0.5, 0, 255).astype(np.uint8))
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return image.convert("RGB")


@dataclasses.dataclass(frozen=True)
class _Part:
    """A folder whose images share a label and an origin."""

    folder: Path
    label: int
    origin: Origin


def _layout(root: Path, skipped: Counter[str]) -> tuple[tuple[str, ...], list[_Part]]:
    """Finds the class names and the folders of images."""
    top = _class_folders(root, root, skipped)
    if "train" not in top:
        reserved = sorted({"test", *UNLABELLED_FOLDERS} & set(top))
        if reserved:
            raise DataError(f"{root} has {reserved} but no train folder; put the classes into {root / 'train'}")
        return _training(root, top)
    classes, parts = _training(root / "train", _class_folders(root, root / "train", skipped))
    parts += [_Part(root / name, -1, Origin.UNLABELLED) for name in UNLABELLED_FOLDERS if name in top]
    for name in _class_folders(root, root / "test", skipped) if "test" in top else ():
        if name not in classes:
            raise DataError(f"class {name!r} is in {root / 'test'}, not in {root / 'train'}; rename or remove it")
        parts.append(_Part(root / "test" / name, classes.index(name), Origin.TEST))
    skipped["other_folders"] += len(set(top) - {"train", "test", *UNLABELLED_FOLDERS})
    return classes, parts


def _training(place: Path, classes: list[str]) -> tuple[tuple[str, ...], list[_Part]]:
    if not classes:
        raise DataError(f"expected class folders in {place}, found none; make one for the images of each class")
    return tuple(classes), [_Part(place / name, label, Origin.TRAIN) for label, name in enumerate(classes)]


def _check_classes(root: Path, parts: list[_Part], files: list[list[os.DirEntry[str]]]) -> None:
    if not any(files):
        raise DataError(f"no images in {root}; expected files ending in {', '.join(SUFFIXES)} in class folders")
    for part, entries in zip(parts, files, strict=True):
        if part.origin is Origin.TRAIN and not entries:
            endings = ", ".join(SUFFIXES)
            raise DataError(f"class folder {part.folder} has no images ({endings}); add some or remove it")


def _class_folders(root: Path, place: Path, skipped: Counter[str]) -> list[str]:
    names = []
    for entry in _entries(root, place, skipped):
        if entry.is_dir():
            names.append(entry.name)
        else:
            skipped["images_without_class" if _is_image(entry) else "not_images"] += 1
    return names


def _images(root: Path, place: Path, skipped: Counter[str]) -> Iterator[os.DirEntry[str]]:
    for entry in _entries(root, place, skipped):
        if entry.is_dir():
            yield from _images(root, Path(entry.path), skipped)
        elif _is_image(entry):
            yield entry
        else:
            skipped["not_images"] += 1


def _is_image(entry: os.DirEntry[str]) -> bool:
    return entry.is_file() and entry.name.lower().endswith(SUFFIXES)


def _entries(root: Path, place: Path, skipped: Counter[str]) -> list[os.DirEntry[str]]:
    """Lists a folder by name, without hidden entries and links out of the root or to a folder around them."""
    kept = []
    with os.scandir(place) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if entry.name.startswith("."):
                skipped["hidden"] += 1
            elif entry.is_symlink() and not _stays_inside(root, Path(entry.path)):
                skipped["refused_links"] += 1
            else:
                kept.append(entry)
    return kept


def _stays_inside(root: Path, link: Path) -> bool:
    target = Path(os.path.realpath(link))
    return target.is_relative_to(root) and not Path(os.path.realpath(link.parent)).is_relative_to(target)


def _listing_key(names: list[str], entries: list[os.DirEntry[str]], image_size: int) -> str:
    key = hashlib.sha256(f"{DECODE_VERSION} {image_size}\n".encode())
    for name, entry in sorted(zip(names, entries, strict=True), key=lambda pair: pair[0]):
        key.update(os.fsencode(name) + f"\0{entry.stat().st_size} {entry.stat().st_mtime_ns}\n".encode())
    return key.hexdigest()

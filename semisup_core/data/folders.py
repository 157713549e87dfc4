"""Image files in class folders: which there are, their classes and their origins, without opening one."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from semisup_core.data.images import DECODE_VERSION, SUFFIXES
from semisup_core.data.manifest import Origin
from semisup_core.errors import DataError

UNLABELLED_FOLDERS = ("unlabelled", "unlabeled")


@dataclasses.dataclass(frozen=True)
class Listing:
    """The images below a folder.

    Attributes:
        class_names: name of label 0, 1, ...
        names: paths relative to the folder.
        labels: label of each, -1 = none.
        origins: origin of each.
        skipped: files left out, counted by reason.
        key: SHA-256 of the folder's path and of the relative names, sizes and modification times.
    """

    class_names: tuple[str, ...]
    names: list[str]
    labels: list[int]
    origins: list[Origin]
    skipped: dict[str, int]
    key: str


def list_images(root: Path, image_size: int) -> Listing:
    """Lists the images below ``root``, by name.

    Args:
        root: an existing folder, resolved.
        image_size: part of the key.

    Raises:
        DataError: a layout that `sources.folder` refuses, or a folder that cannot be listed.
    """
    skipped = Counter({"not_images": 0})
    try:
        class_names, parts = _layout(root, skipped)
        files = [list(_images(root, part.folder, skipped)) for part in parts]
    except OSError as error:
        place = error.filename or root
        raise DataError(f"cannot list {place}: {error.strerror}; check its permissions") from error
    _check_classes(root, parts, files)
    rows = [(part, entry) for part, entries in zip(parts, files, strict=True) for entry in entries]
    names = [os.path.relpath(entry.path, root) for _, entry in rows]
    return Listing(
        class_names=class_names,
        names=names,
        labels=[part.label for part, _ in rows],
        origins=[part.origin for part, _ in rows],
        skipped=dict(skipped),
        key=_key(root, names, [entry for _, entry in rows], image_size),
    )


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
    if len(classes) < 2:
        found = "none; make one for the images of each class"
        if classes:
            inside = place / classes[0]
            found = f"only {classes[0]!r}; if the classes lie inside {inside}, give that path, else add other classes"
        raise DataError(f"expected at least two class folders in {place}, found {found}")
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


def _key(root: Path, names: list[str], entries: list[os.DirEntry[str]], image_size: int) -> str:
    # Reproducible archives unpack different images with the same names, sizes and times; the folder tells them apart.
    key = hashlib.sha256(f"{DECODE_VERSION} {image_size}\n".encode() + os.fsencode(root) + b"\n")
    for name, entry in sorted(zip(names, entries, strict=True), key=lambda pair: pair[0]):
        key.update(os.fsencode(name) + f"\0{entry.stat().st_size} {entry.stat().st_mtime_ns}\n".encode())
    return key.hexdigest()

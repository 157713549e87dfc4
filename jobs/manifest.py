"""A folder that is whole or is not believed: a manifest of sizes and hashes, written last."""

import hashlib
import json
from pathlib import Path
from typing import Any

from semisup_core.durable import flush

FORMAT_VERSION = 1
MANIFEST = "manifest.json"


def problem(path: Path) -> str | None:
    """What is wrong with a folder by its manifest, or None."""
    try:
        manifest = json.loads((path / MANIFEST).read_text())
        version, files = manifest["format_version"], manifest["files"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{MANIFEST} cannot be read: {error}"
    if version != FORMAT_VERSION:
        return f"format version {version}, this program reads {FORMAT_VERSION}"
    for name, expected in files.items():
        try:
            size = (path / name).stat().st_size
        except OSError as error:
            return f"{name}: {error.strerror}"
        if size != expected["bytes"]:
            return f"{name} has {size} bytes, its manifest says {expected['bytes']}"
        if _sha256(path / name) != expected["sha256"]:
            return f"{name} does not have the SHA-256 of its manifest"
    return None


def write_manifest(folder: Path) -> None:
    """Writes the sizes and SHA-256 of what is in a folder; the last file to be written there."""
    files = {path.name: {"bytes": path.stat().st_size, "sha256": _sha256(path)} for path in sorted(folder.iterdir())}
    write_json(folder / MANIFEST, {"format_version": FORMAT_VERSION, "files": files})


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Writes a file and waits until the disk has it."""
    with open(path, "w") as file:
        json.dump(values, file, indent=1)
        flush(file)

"""Raw-pixel results, measured once for all runs of a storage that have the same data, split and protocol."""

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

from jobs.storage import Storage, write_text
from semisup_core.data.splits import Split
from semisup_core.data.store import Store
from semisup_core.evaluation.protocols import DESCRIPTIONS, Measured

FOLDER = "baselines"
_PIXELS = "pixels in 0-1, averaged down to at most 32 a side"  # what `evaluation.embed.pixels` does


def pixel_baselines(
    storage: Storage,
    store: Store,
    split: Split,
    pool: str,
    protocols: Sequence[str],
    measure: Callable[[Sequence[str]], list[Measured]],
) -> list[Measured]:
    """The results under each protocol, read where they were measured before.

    Args:
        storage: of the runs.
        store: the images.
        split: the bank and the pool.
        pool: what is measured on.
        protocols: names.
        measure: measures those that are not there.

    Returns:
        One entry a protocol, in order; "classifier", which pixels do not have, is left out.
    """
    wanted = [protocol for protocol in protocols if protocol != "classifier"]
    files = {protocol: _file(storage.root, store, split, pool, protocol) for protocol in wanted}
    for file in files.values():
        storage.fetch(file)
    known = {protocol: found for protocol, file in files.items() if (found := _read(file))}
    for measured in measure([protocol for protocol in wanted if protocol not in known]):
        known[measured.protocol] = measured
        files[measured.protocol].parent.mkdir(parents=True, exist_ok=True)
        write_text(files[measured.protocol], json.dumps(measured._asdict(), indent=1))
        storage.send(files[measured.protocol])
    return [known[protocol] for protocol in wanted]


def _file(root: Path, store: Store, split: Split, pool: str, protocol: str) -> Path:
    key = json.dumps([store.fingerprint, split.hash, pool, _PIXELS, DESCRIPTIONS[protocol]])
    return root / FOLDER / f"{protocol}-{hashlib.sha256(key.encode()).hexdigest()[:16]}.json"


def _read(file: Path) -> Measured | None:
    try:
        fields = json.loads(file.read_text())
        return Measured(**{**fields, "interval": tuple(fields["interval"])})
    except (OSError, ValueError, KeyError, TypeError):
        return None  # not there, or not readable: measured again

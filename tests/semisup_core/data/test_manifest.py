import dataclasses
import json

from semisup_core.data.manifest import Manifest


def test_manifest_survives_json(tmp_path, write):
    manifest = write(tmp_path / "s").manifest
    assert Manifest.from_json(json.loads(json.dumps(dataclasses.asdict(manifest)))) == manifest

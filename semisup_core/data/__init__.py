"""The data sources by name. Imports nothing heavy, so that a wrong setting is refused before anything loads.

`sources.prepare` turns a source into a store of images; `splits.make_split` draws the rows of a run from it.
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class SourceEntry:
    """A kind of source, and the settings of `dataset` that are its own.

    Attributes:
        function: "module:function", which takes ``image_size`` and the settings below and returns a `sources.Found`.
        needs: settings that must be given, each with an example for messages.
        takes: settings that may be None.
    """

    function: str
    needs: Mapping[str, str]
    takes: tuple[str, ...] = ()

    @property
    def settings(self) -> tuple[str, ...]:
        """Every setting that the function takes."""
        return (*self.needs, *self.takes)


SOURCES: dict[str, SourceEntry] = {
    "digits": SourceEntry("semisup_core.data.digits_source:digits", {}),
    "folder": SourceEntry("semisup_core.data.folder_source:folder", {"path": "FOLDER"}),
    "csv": SourceEntry("semisup_core.data.csv_source:csv_file", {"path": "FILE.csv"}),
    "arrays": SourceEntry("semisup_core.data.arrays_source:arrays", {"path": "FILE.npz"}),
    "tfds": SourceEntry(
        "semisup_core.data.tfds_source:tfds",
        {"tfds_name": "stl10", "train_split": "train"},
        ("test_split", "unlabelled_split", "path"),
    ),
}
# All settings that belong to some source, in order of appearance.
SOURCE_SETTINGS = tuple(dict.fromkeys(key for entry in SOURCES.values() for key in entry.settings))

"""Applies a run to new images: `python -m jobs.embed RUN FOLDER output=new.parquet`."""

from pathlib import Path

from jobs.cli import chosen_names, main_with_exit_codes, parse_command, whole_number
from jobs.errors import ConfigError
from jobs.folder import find_run
from jobs.quiet import quiet_imports
from jobs.schema import PROTOCOLS

_ENDINGS = (".parquet", ".csv")


def main() -> None:
    """Parses, opens the run, and writes the table."""
    command = parse_command(
        "Embed new images; predict their classes; find the labelled images most like them.",
        "RUN FOLDER",
        {
            "output": ("", f"a file ending in {' or '.join(_ENDINGS)}; default RUN/embedded/FOLDER.parquet"),
            "neighbours": ("5", "labelled images to list beside each"),
            "predict": ("knn20", f"one of {', '.join(PROTOCOLS)}"),
            "dataset.path": ("", "where the run's own data are now, if they have moved"),
            "storage": ("runs", "the folder of the runs"),
        },
    )
    options, (run, images) = command.options, command.words
    protocol = chosen_names("predict", options["predict"], PROTOCOLS)
    if len(protocol) != 1:
        raise ConfigError(f"predict: expected one of {', '.join(PROTOCOLS)}, got {options['predict']!r}")
    neighbours = whole_number("neighbours", options["neighbours"], 1, 1000)
    folder = find_run(run, options["storage"])
    name = Path(images).resolve().name or "images"
    output = Path(options["output"] or folder.path / "embedded" / f"{name}.parquet").expanduser()
    if "://" in options["output"]:
        raise ConfigError(
            f"output: expected a file, got {options['output']!r}; without output= the table goes into the run, in a "
            "bucket as well"
        )
    if output.suffix.lower() not in _ENDINGS:
        raise ConfigError(f"output: expected a file ending in {' or '.join(_ENDINGS)}, got {options['output']!r}")
    with quiet_imports():  # after validation: a wrong word is answered before anything heavy loads
        from jobs.embedding import embed_folder
        from jobs.trained import Trained
    trained = Trained(folder, options["dataset.path"] or None)
    embed_folder(trained, Path(images).expanduser(), output, protocol[0], neighbours, print)
    folder.send_added()


if __name__ == "__main__":
    main_with_exit_codes(main)

"""Draws what runs have learned: `python -m jobs.plot RUN RUN …`."""

from pathlib import Path

from jobs.cli import chosen_names, main_with_exit_codes, parse_command, whole_number
from jobs.errors import ConfigError
from jobs.folder import find_run
from jobs.quiet import quiet_imports
from jobs.schema import PROTOCOLS

_MOST_POINTS = 20_000  # t-SNE of more takes hours


def main() -> None:
    """Parses, finds the runs, and draws."""
    command = parse_command(
        "Draw accuracy against epoch of several runs; of a single run also confusion, embedding map and neighbours.",
        "RUN …",
        {
            "protocols": ("", f"a panel each, of {', '.join(PROTOCOLS)}"),
            "output": ("", "a PNG (default accuracy.png); of a single run a folder (default RUN/pictures)"),
            "points": ("2000", "at most so many images in the embedding map"),
            "seed": ("0", "of the images that are drawn"),
            "dataset.path": ("", "where the data of a single run are now, if they have moved"),
            "storage": ("runs", "the folder of the runs"),
        },
    )
    options = command.options
    protocols = chosen_names("protocols", options["protocols"], PROTOCOLS)
    points = whole_number("points", options["points"], 10, _MOST_POINTS)
    seed = whole_number("seed", options["seed"], 0, 2**32 - 1)
    folders = [find_run(word, options["storage"]) for word in command.words]
    several = len(folders) > 1
    if several and options["output"] and not options["output"].lower().endswith(".png"):
        raise ConfigError(f"output: expected a file ending in .png for several runs, got {options['output']!r}")
    output = Path(options["output"] or ("accuracy.png" if several else folders[0].path / "pictures")).expanduser()
    with quiet_imports():  # after validation: a wrong word is answered before anything heavy loads
        from jobs.drawings import draw_learned, draw_runs

    learned = not several and folders[0].encoder.exists()
    written = [draw_runs(folders, protocols, output if several else output / "accuracy.png", needed=not learned)]
    if learned:
        written += draw_learned(folders[0], protocols, output, points, seed, options["dataset.path"] or None)
    folders[0].send_added()
    print("\n".join(f"written: {folders[0].shown(path)}" for path in written if path))


if __name__ == "__main__":
    main_with_exit_codes(main)

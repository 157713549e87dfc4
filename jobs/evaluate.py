"""Measures a finished run: `python -m jobs.evaluate RUN protocols=knn20,linear`."""

from jobs.cli import chosen_names, main_with_exit_codes, parse_command
from jobs.errors import ConfigError
from jobs.folder import find_run
from jobs.quiet import quiet_imports
from jobs.schema import PROTOCOLS

_POOLS = ("test", "validation")


def main() -> None:
    """Parses, opens the run, measures, and prints."""
    command = parse_command(
        "Measure a run under every protocol: accuracy with interval, each class, confusion.",
        "RUN",
        {
            "protocols": ("", f"some of {', '.join(PROTOCOLS)}; default all"),
            "pool": ("test", " or ".join(_POOLS)),
            "dataset.path": ("", "where the data are now, if they have moved"),
            "storage": ("runs", "the folder of the runs"),
        },
        every_epoch="measure every kept checkpoint on test instead, for jobs.plot (checkpoint.keep=all keeps all)",
    )
    options = command.options
    protocols = chosen_names("protocols", options["protocols"], PROTOCOLS)
    if options["pool"] not in _POOLS:
        raise ConfigError(f"pool: expected {' or '.join(_POOLS)}, got {options['pool']!r}")
    if "every_epoch" in command.flags and options["pool"] != "test":
        raise ConfigError("pool: --every-epoch measures test images; validation is in metrics.jsonl already")
    folder = find_run(command.words[0], options["storage"])
    with quiet_imports():  # after validation: a wrong word is answered before anything heavy loads
        from jobs.curves import measure_every_epoch
        from jobs.evaluation import evaluate
        from jobs.trained import Trained
    trained = Trained(folder, options["dataset.path"] or None)
    if "every_epoch" in command.flags:
        measure_every_epoch(trained, protocols, print)
    else:
        print(evaluate(trained, protocols, options["pool"]))
    folder.send_added()


if __name__ == "__main__":
    main_with_exit_codes(main)

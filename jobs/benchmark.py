"""Measures what this machine does with a configuration: `python -m jobs.benchmark`."""

import tempfile
from pathlib import Path

from jobs import config
from jobs.cli import chosen_names, main_with_exit_codes, parse
from jobs.quiet import quiet_imports
from jobs.storage import open_storage

PARTS = ("runs", "step", "stages", "input", "knn")  # without a word; runs first, while this process holds little memory
MORE = ("overheads", "batch")  # which take longer
REFERENCE = Path(__file__).resolve().parent.parent / "configs" / "experiment" / "reference_step.yaml"


def main() -> None:
    """Parses, validates, measures, prints, and leaves benchmark.json with a picture a part."""
    arguments = parse(
        f"Measure a configuration on random images: {', '.join(PARTS)}; one or more of these words chooses, also of "
        f"{', '.join(MORE)}, which take longer. Without --config, it is configs/experiment/reference_step.yaml.",
        thorough="more repetitions, for figures to quote",
    )
    words = [word for word in arguments.overrides if "=" not in word]
    parts = chosen_names("part", ",".join(words), PARTS + MORE) or list(PARTS)
    overrides = [word for word in arguments.overrides if "=" in word]
    run = config.load(overrides, arguments.config or str(REFERENCE))
    if arguments.print_config:
        print(config.to_yaml(run), end="")
        return
    with quiet_imports():  # after validation: a wrong key is answered before anything heavy loads
        from jobs.benchmarks.measure import measure
    storage = open_storage(run.storage)
    storage.check()
    output = storage.root / "benchmark"
    with tempfile.TemporaryDirectory(prefix="semisup-benchmark-") as folder:
        measure(run, parts, Path(folder), output, arguments.thorough)
    storage.send(output)
    print(f"{storage.url}/{output.name}/benchmark.json and pictures beside it")


if __name__ == "__main__":
    main_with_exit_codes(main)

"""Lists the runs of a storage: `python -m jobs.runs storage=runs`."""

from jobs.cli import main_with_exit_codes, parse_command
from jobs.errors import ConfigError
from jobs.run_list import list_runs
from jobs.storage import FolderStorage, open_storage


def main() -> None:
    """Parses, reads, and prints; loads nothing heavy."""
    command = parse_command(
        "List runs: state, best accuracy, age, and the command that resumes each.",
        "",
        {"storage": ("runs", "the folder of the runs")},
    )
    storage = open_storage(command.options["storage"], own_copy=True)
    if isinstance(storage, FolderStorage) and not storage.root.is_dir():
        raise ConfigError(f"storage: expected the folder of the runs, got {storage.url}, which is not there")
    print(list_runs(storage))


if __name__ == "__main__":
    main_with_exit_codes(main)

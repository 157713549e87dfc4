"""Prepares a data set and says what is in it: `python -m jobs.data dataset=folder dataset.path=/data/birds`."""

from jobs import config
from jobs.cli import main_with_exit_codes, parse


def main() -> None:
    """Parses, validates, prepares the store, and reports."""
    arguments = parse(
        "Prepare a data set; show its classes, pools, sizes, damaged files and duplicates.",
        verify="hash every file of the store again and compare with its manifest",
    )
    run = config.load(arguments.overrides, arguments.config)
    if arguments.print_config:
        print(config.to_yaml(run), end="")
        return
    from jobs import data_report  # after validation: a wrong key is answered before anything heavy loads
    from jobs.prepare import prepare_store, split_of

    store = prepare_store(run)
    print(data_report.describe_store(store))
    if arguments.verify:
        store.verify()
        print(f"verified: all {len(store.manifest.files)} files are as they were written")
    # Printed part by part: what is in the store helps whoever asked for a split that it cannot give.
    split = split_of(run, store)
    print(data_report.describe_pools(store, split))
    balance = data_report.describe_balance(store, split, run.dataset.balanced)
    print(*[balance] if balance else [], data_report.describe_duplicates(store, split), sep="\n")


if __name__ == "__main__":
    main_with_exit_codes(main)

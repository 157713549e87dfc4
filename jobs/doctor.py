"""Looks whether a run has what it needs here: `python -m jobs.doctor dataset=folder dataset.path=/data/birds`."""

from jobs import config
from jobs.cli import main_with_exit_codes, parse


def main() -> int:
    """Parses, looks, prints a line for each thing; exit code 1 when something is in the way."""
    arguments = parse("Look whether a run with these words has what it needs: packages, devices, Ray, storage, data.")
    run = config.load(arguments.overrides, arguments.config)
    if arguments.print_config:
        print(config.to_yaml(run), end="")
        return 0
    from jobs.checkup import look  # after validation

    problems = 0
    for line in look(run):
        problems += bool(line.hint)
        print(f"{'!!' if line.hint else 'ok'}  {line.topic:<10}  {line.found}", flush=True)
        if line.hint:
            print(f"    {'':<10}  -> {line.hint}", flush=True)
    print("ready" if not problems else f"{problems} to mend")
    return 1 if problems else 0


if __name__ == "__main__":
    main_with_exit_codes(main)

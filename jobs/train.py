"""Trains one encoder: `python -m jobs.train method=suncet dataset=digits trainer.epochs=50`."""

from jobs import config
from jobs.cli import main_with_exit_codes, parse


def main() -> int | None:
    """Parses, validates, and hands over to the driver."""
    arguments = parse("Train an encoder from few labelled and many unlabelled images.")
    run = config.load(arguments.overrides, arguments.config)
    if arguments.print_config:
        print(config.to_yaml(run), end="")
        return None
    from jobs.driver import train  # after validation: a wrong key is answered before anything heavy loads

    train(run)
    return None


if __name__ == "__main__":
    main_with_exit_codes(main)

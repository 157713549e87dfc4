"""Searches for better settings: `python -m jobs.tune method=suncet search=temperature_width_augmentation`."""

from omegaconf import OmegaConf

from jobs import search_config
from jobs.cli import main_with_exit_codes, parse
from jobs.layers import members


def main() -> None:
    """Parses, validates, and hands over to the search."""
    arguments = parse(
        f"Search for better settings with Ray Tune. search={' | '.join(members('search'))} picks what is varied, "
        "search.KEY=VALUE says how, search.space.KEY='{KIND: [values]}' adds a key or replaces its range (null takes "
        "it out); all other keys are those of every trial.",
        retrain="train the best configuration afterwards, as a run of its own",
    )
    search = search_config.load(arguments.overrides, arguments.config)
    if arguments.print_config:
        print(OmegaConf.to_yaml(OmegaConf.create(search.to_dict())), end="")
        return
    from jobs import search as searches  # after validation: a wrong key is answered before anything heavy loads

    searches.run(search, arguments.retrain)


if __name__ == "__main__":
    main_with_exit_codes(main)

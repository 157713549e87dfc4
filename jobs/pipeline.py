"""Pretrains, probes and fine-tunes an encoder beside a supervised baseline: `python -m jobs.pipeline method=simclr`."""

from functools import partial

from jobs import config, stages
from jobs.cli import main_with_exit_codes, parse


def main() -> None:
    """Parses, validates every stage, and runs them."""
    arguments = parse(
        "Pretrain, probe and fine-tune an encoder beside a supervised baseline. STAGE.KEY=VALUE is for one of "
        f"{', '.join(stages.STAGES)}; method… is for pretraining; all other keys are for every stage."
    )
    chosen = stages.plan(arguments.overrides, arguments.config)
    if arguments.print_config:
        print("---\n".join(f"# {stage.name}\n{config.to_yaml(stage.load())}" for stage in chosen), end="")
        return
    from jobs.driver import train  # after validation: a wrong key is answered before anything heavy loads

    stages.run(chosen, partial(train, keep_cluster=True))


if __name__ == "__main__":
    main_with_exit_codes(main)

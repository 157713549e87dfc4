"""A few steps in this process, without Ray, so that breakpoints work: `python -m jobs.debug method=paws`."""

import os
import shutil
from pathlib import Path

from jobs import config
from jobs.cli import main_with_exit_codes, parse

_WORDS = ["runtime=local", "name=debug", "resume=false", "debug.eager=true", "debug.steps=4"]
_WORDS += ["debug.check_numerics=true", "debug.dump_batch=true"]
_OVERFIT = "debug.overfit_batch=true"
_MORE = ["debug.eager=false", "debug.steps=200", "evaluation.every=200"]  # a batch takes some time to learn


def main() -> None:
    """Parses, validates, and hands over to the driver."""
    arguments = parse(
        "Run a few steps in this process, eagerly, and leave what the loss saw: jobs.train with "
        f"{' '.join(_WORDS)} in front of the other words, and with {_OVERFIT} also {' '.join(_MORE)}."
    )
    words = [*_WORDS, *(_MORE if _OVERFIT in arguments.overrides else ()), *arguments.overrides]
    run = config.load(words, arguments.config)
    if arguments.print_config:
        print(config.to_yaml(run), end="")
        return
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "0")  # a debugger follows one device only
    from jobs.driver import train  # after validation: a wrong key is answered before anything heavy loads

    if run.name == "debug":
        _forget_earlier(Path(run.storage) / "debug")
    train(run)


def _forget_earlier(folder: Path) -> None:
    """Removes what this command left before; whatever else has that name, or is at work, is moved aside or refused."""
    made_here, at_work = folder / "batch.npz", folder.parent / ".leases" / "debug.json"
    if made_here.exists() and not (folder / "summary.json").exists() and not at_work.exists():
        if "steps: null" not in (folder / "config.yaml").read_text():
            shutil.rmtree(folder)


if __name__ == "__main__":
    main_with_exit_codes(main)

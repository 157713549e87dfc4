"""Errors of a job that are not the library's own; `jobs.cli` gives each its exit code."""


class ConfigError(Exception):
    """A configuration that cannot be run: what was expected, what came, what to do (exit code 2)."""


class SupersededError(Exception):
    """Another attempt has taken the run over, so this one must change nothing more (exit code 5)."""


class UnavailableError(Exception):
    """An object store or a cluster that does not answer (exit code 5)."""


class TrainingError(Exception):
    """Training failed for a reason that is not the configuration's or the data's (exit code 1)."""

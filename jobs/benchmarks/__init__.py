"""What a machine or cluster does with a configuration, measured: `python -m jobs.benchmark`."""

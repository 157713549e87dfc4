"""What a user runs: configuration, runtimes, the worker loop and thin entry points."""

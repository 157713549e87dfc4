"""Keeps the greetings of native libraries off the terminal; what they say in an error is shown."""

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager


def quiet_environment() -> None:
    """Settings that TensorFlow and Ray read when they are imported, here and in the processes started from here."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")


@contextmanager
def quiet_imports() -> Iterator[None]:
    """For the imports of a command that uses TensorFlow: no greetings, and no more GPU memory than it needs."""
    quiet_environment()
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
    with stderr_aside():
        import tensorflow as tf

        tf.config.list_physical_devices("GPU")  # says its say about drivers now
        yield


@contextmanager
def stderr_aside() -> Iterator[None]:
    """Holds back what is written to file descriptor 2, and shows it only if an exception leaves the block.

    TensorFlow's first lines ignore its own log level, and come from C++, past sys.stderr.
    """
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as aside:
        os.dup2(aside.fileno(), 2)
        try:
            yield
        except BaseException:
            aside.seek(0)
            os.write(kept, aside.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)

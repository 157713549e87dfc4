"""The errors of semisup that a user can act on; anything else that escapes is a bug."""


class SemisupError(Exception):
    """An expected failure; its message says what was expected, what was received and what to do."""


class DataError(SemisupError):
    """The data set is missing, damaged or too small for the request."""


class CorruptImage(DataError):
    """One image cannot be decoded; the message names it and says why."""


class StorageError(SemisupError):
    """What is to be kept cannot be written, or there is too little space for it."""


class NumericalError(SemisupError):
    """Training produced a loss or weights that are not finite.

    Attributes:
        step: the first one that is bad, 1 for the first of the run; 0 when it is not known.
    """

    def __init__(self, message: str, step: int = 0) -> None:
        """Keeps both."""
        super().__init__(message)
        self.step = step

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
    """Training produced a loss or weights that are not finite."""

"""What goes wrong outside the program: told in a sentence, without a traceback."""

from collections.abc import Callable


class TrainingError(Exception):
    """The message is meant for the person at the terminal and says what to do; the command line exits with status 2."""


class NotFinite(TrainingError):
    """A loss or a gradient became infinite or NaN. No weight has been changed by it."""

    def __init__(self, message: str, diagnosis: Callable[[], str] | None = None):
        super().__init__(message)
        self.diagnosis = diagnosis  # finds out where it began


class CheckpointError(TrainingError):
    """A checkpoint is missing, damaged, or of another model."""


class RunFolderError(TrainingError):
    """The run folder cannot be used: it is not empty, cannot be written, or its disk is full."""

"""What goes wrong outside the program: told in a sentence, without a traceback."""


class TrainingError(Exception):
    """The message is meant for the person at the terminal and says what to do; the command line exits with status 2."""


class CheckpointError(TrainingError):
    """A checkpoint is missing, damaged, or of another model."""


class RunFolderError(TrainingError):
    """The run folder cannot be used: it is not empty, cannot be written, or its disk is full."""

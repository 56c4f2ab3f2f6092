"""Training: a loop with callbacks, checkpoints that are always whole, a run folder with pictures."""

from .callbacks import Checkpoints, LossHistory, Metrics, ProgressBar
from .checkpoint import load_checkpoint, read_checkpoint, save_checkpoint
from .errors import CheckpointError, RunFolderError, TrainingError
from .files import write_atomic
from .folder import RunFolder
from .loop import Callback, Minimize, Task, Trainer

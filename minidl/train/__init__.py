"""Training: a loop with callbacks, checkpoints that are always whole, a run folder with pictures and a report."""

from .callbacks import (
    Checkpoints,
    EarlyStopping,
    HealthMonitor,
    LossHistory,
    Metrics,
    ProgressBar,
    TensorBoard,
    restore,
)
from .checkpoint import load_checkpoint, read_checkpoint, save_checkpoint
from .errors import CheckpointError, NotFinite, RunFolderError, TrainingError
from .files import write_atomic
from .folder import RunFolder
from .loop import Callback, Trainer
from .tasks import Adversarial, Minimize, Task

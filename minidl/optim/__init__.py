"""Optimizers, and schedules of their learning rates."""

from . import lr_scheduler
from .adagrad import Adagrad
from .adam import Adam, AdamW
from .averaging import ExponentialMovingAverage
from .optimizer import Optimizer
from .rmsprop import RMSprop
from .sgd import SGD

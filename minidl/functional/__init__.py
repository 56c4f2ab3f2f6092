"""The public functions, with PyTorch's names, argument order, defaults and meaning."""

from . import methods
from .activation import *
from .conv import (
    avg_pool1d,
    avg_pool2d,
    avg_pool3d,
    conv1d,
    conv2d,
    conv3d,
    conv_transpose1d,
    conv_transpose2d,
    conv_transpose3d,
    fold,
    max_pool1d,
    max_pool2d,
    max_pool3d,
    unfold,
)
from .loss import *
from .normalization import batch_norm
from .onehot import one_hot
from .reduction import log_softmax, logsumexp, softmax
from .shape import pad

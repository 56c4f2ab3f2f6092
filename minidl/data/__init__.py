"""Data: datasets, readers of the usual formats, transforms, and a loader that knows where it stands."""

from .actions import hmdb51, hmdb51_split, ucf101, ucf101_split
from .cifar import cifar10, cifar100
from .dataset import ArrayDataset, Dataset, Subset, Transformed, random_split
from .digits import digits
from .extras import DataError, MissingExtra
from .folder import ImageFolder, read_image
from .idx import mnist, read_idx
from .loader import DataLoader
from .moving import DIRECTIONS, MadeVideos, make_moving_digits, order_task, torus_motion, write_video
from .transforms import (
    CenterCrop,
    Compose,
    Normalize,
    RandomCrop,
    RandomHorizontalFlip,
    Resize,
    ToFloat,
)
from .video import VideoClips, read_frames
from .workers import WorkerError

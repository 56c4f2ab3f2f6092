"""Data: datasets, splits, and a loader that knows where it stands."""

from .dataset import ArrayDataset, Dataset, Subset, random_split
from .digits import digits
from .extras import MissingExtra
from .loader import DataLoader

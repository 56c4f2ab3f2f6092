"""Metrics: pure functions of arrays that say how good predictions and drawn samples are."""

from .classification import accuracy, class_coverage, confident_share, confusion_matrix
from .likelihood import PARZEN_SIGMAS, ParzenEstimate, gaussian_samples, parzen_log_likelihood
from .samples import gradient_energy, laplacian_energy, nearest_neighbour_distance, relative_sharpness

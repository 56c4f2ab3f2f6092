"""Pictures of a run, drawn with matplotlib's objects (no pyplot: nothing global, no window, no figure left open).

Each function returns a matplotlib Figure; `save` writes it, `Report.picture` shows it.
"""

from .canvas import BLUE, CLASSES, DPI, INK, MUTED, ORANGE, mosaic, png, save
from .classes import class_map, confusion_matrix, film_strip
from .curves import curves, gan_health, loss_curve
from .images import arithmetic, filters, image_grid, interpolations, manifold, reconstructions

"""The fast CPU path: Numba kernels, BLAS, and NumPy in pieces; small problems take plain NumPy.

Loaded with the first operation that has a kernel here, which is when the memory of large arrays begins to be recycled.
"""

from .recycle import keep_freed_memory

keep_freed_memory()

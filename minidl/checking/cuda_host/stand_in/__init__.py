"""A CuPy made of NumPy: its arrays are a type of their own that refuses what CuPy's arrays refuse, its raw kernels run
through HostModule.

It finds host code that mixes NumPy and CuPy arrays or arrays of two devices, converts implicitly, calls what CuPy does
not have, passes a kernel the wrong arguments, or works on an array whose device is not the current one. It counts how
often the host waits for the device (`library.waits`) or sends it data (`library.uploads`), and its memory can be made
small (`library.memory.limit`), so that CuPy's OutOfMemoryError comes where it would. A stream that is captured refuses
what CuPy refuses then and computes nothing; its graph, when it is launched, repeats the work on the same memory, and
says if that has become another array's. A copy from pinned memory is as late as can be, and memory that was given back
holds something else, so whoever is too early is wrong.
It is no CuPy: there are two devices, but one memory, work is done at once but for those copies, and random numbers are
NumPy's. arrays.py: arrays and their functions; devices.py: devices, streams, events, graphs; memory.py: pools and
pinned memory; library.py: the modules.
"""

from .arrays import FUNCTIONS, METHODS, MISSING, SCATTERING, ndarray
from .library import installed
from .memory import OutOfMemoryError

__all__ = ["FUNCTIONS", "METHODS", "MISSING", "SCATTERING", "OutOfMemoryError", "installed", "ndarray"]

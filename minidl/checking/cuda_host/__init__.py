"""CUDA kernels on the CPU, for checking them where there is no device.

`HostModule` compiles a .cu file with an ordinary C++ compiler, `installed()` puts a CuPy made of NumPy in the place of
the real one, so that everything written for CuPy arrays runs, slowly: launchers, kernels, whole networks.
`nvrtc` compiles for real architectures without a device and reports registers and spills.
"""

from .module import HostError, HostKernel, HostModule, cache_directory, compiler, thread_order, unavailable
from .stand_in import installed

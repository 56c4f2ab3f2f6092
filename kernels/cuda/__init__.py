"""CUDA C++ kernels (*.cu) and their launchers. CuPy compiles what is used, when it is first used."""

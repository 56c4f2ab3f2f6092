"""CUDA C++ kernels (*.cu) and their launchers. CuPy compiles them when they are first used; importing this costs nothing."""

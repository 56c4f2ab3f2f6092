"""The kernels of ../cuda in Python, to be read beside them: same names, same order. Importing this imports no Numba."""

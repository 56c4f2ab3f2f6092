"""The columns of the kernel table, apart from the table so that naming one loads no kernel."""

COLUMNS = ("reference", "cpu", "cuda", "numba_cuda")

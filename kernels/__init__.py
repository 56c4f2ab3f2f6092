"""Kernels: pure array functions. Arrays in, arrays out; they have never heard of a Tensor.

`table.py` is the one visible list of which operation runs on which backend.
"""

if __name__ != "minidl.kernels":
    raise ImportError(f"import minidl.kernels, not {__name__}")

"""The specification in code: short, obviously right, for NumPy and CuPy arrays and any number of spatial axes."""

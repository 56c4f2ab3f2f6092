import pytest

import minidl


@pytest.fixture(autouse=True)
def _reference_kernels():
    """Layers are tested on the reference kernels: nothing to compile, and the fast ones have tests of their own."""
    minidl.manual_seed(0)
    with minidl.backend("reference"):
        yield

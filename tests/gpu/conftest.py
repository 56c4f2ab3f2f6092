"""What the tests on a real device share."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from types import ModuleType
from typing import Any

import pytest


@pytest.fixture(scope="session")
def cupy() -> Any:
    """CuPy, where there is a device; else the test is skipped."""
    library = pytest.importorskip("cupy", reason="CuPy is not installed")
    try:
        count = library.cuda.runtime.getDeviceCount()
    except library.cuda.runtime.CUDARuntimeError as error:
        pytest.skip(f"no CUDA device: {error}")
    if not count:
        pytest.skip("no CUDA device")
    return library


@pytest.fixture(params=["cuda", "numba_cuda"])
def column(request: pytest.FixtureRequest, cupy: Any) -> Callable[[str], ModuleType]:
    """The modules of a column, by their names."""
    if request.param == "numba_cuda":
        from numba import config, cuda

        if config.ENABLE_CUDASIM or not cuda.is_available():
            pytest.skip("numba.cuda finds no device, or runs in its simulator")
    return lambda name: import_module(f"minidl.kernels.{request.param}.{name}")

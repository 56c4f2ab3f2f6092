"""Limits on threads hold inside the block and are gone after it."""

import numba
import numpy as np
import pytest
from threadpoolctl import threadpool_info

from minidl.train import TrainingError
from minidl.train.threads import available, check_threads, limit_threads


def blas_threads():
    np.ones((2, 2)) @ np.ones((2, 2))
    return [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]


def test_limits_hold_inside_the_block_only():
    before = blas_threads(), numba.get_num_threads()
    with limit_threads(1):
        assert set(blas_threads()) == {1}
        assert numba.get_num_threads() == 1
    assert (blas_threads(), numba.get_num_threads()) == before


def test_without_a_limit_nothing_exceeds_the_cores():
    with limit_threads(None):
        assert max([*blas_threads(), numba.get_num_threads()]) <= available()


@pytest.mark.parametrize("count", [0, -1, 10**6])
def test_more_threads_than_cores_are_refused(count):
    with pytest.raises(TrainingError, match=f"--threads is {count}: it must be between 1 and {available()}"):
        check_threads(count)
    check_threads(1)
    check_threads(None)

"""Gradient checking: finite differences against backward, and sample inputs for every operation and layer.

`gradcheck` and `gradgradcheck` check one function. `minidl.checking.samples` is the table of sample inputs that the
tests and the command `minidl gradcheck` share.
"""

from .gradcheck import gradcheck, gradgradcheck
from .report import Failure, GradcheckError, Report, SavedCase, Step, load_case

__all__ = ["Failure", "GradcheckError", "Report", "SavedCase", "Step", "gradcheck", "gradgradcheck", "load_case"]

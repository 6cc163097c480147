"""Conformance suites: what every format, kernel and method must do, as plain functions that raise AssertionError.

Whoever writes a format or a method outside this package runs them too:

>>> from fewbits import formats
>>> check_format(formats.get("Q8_0"))
"""

from __future__ import annotations

from fewbits.testing.device_suite import check_device
from fewbits.testing.feedback_suite import check_feedback
from fewbits.testing.field_kernel_suite import check_field_kernel
from fewbits.testing.format_suite import check_format
from fewbits.testing.grouped_suite import check_grouped
from fewbits.testing.kernel_suite import check_kernel
from fewbits.testing.method_suite import check_method, check_not_nearest

__all__ = [
    "check_device",
    "check_feedback",
    "check_field_kernel",
    "check_format",
    "check_grouped",
    "check_kernel",
    "check_method",
    "check_not_nearest",
]

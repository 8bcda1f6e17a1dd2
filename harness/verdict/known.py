"""A kernel's documented defect: a case that has asserted its symptom ends here, neither passed nor failed."""

from __future__ import annotations

from typing import NoReturn

import pytest


def known_fail(reason: str) -> NoReturn:
    """End the cell as `known-fail`.

    For a case that has just asserted the defect's symptom, so that a kernel without the defect fails it. `reason` is
    one line that names the kernel's file and line, its version, and what is wrong there.
    """
    pytest.xfail(reason)

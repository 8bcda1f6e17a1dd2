"""Prints a pytest internal error as one line; its traceback goes to a file."""

from __future__ import annotations

import pytest
from _pytest._code.code import ExceptionChainRepr, ReprEntryNative, ReprExceptionInfo

from harness.core import exception_as_pinpoint_error
from harness.verdict.printk import without_control_codes


class OneLineInternalErrors:
    """A plugin that shortens what pytest prints for an error of the harness."""

    @pytest.hookimpl(tryfirst=True)
    def pytest_internalerror(self, excrepr: object, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
        """Replace the traceback by one line before it is printed."""
        if isinstance(excrepr, (ExceptionChainRepr, ReprExceptionInfo)):
            text = without_control_codes(str(exception_as_pinpoint_error.as_pinpoint_error(excinfo.value))).replace(
                "\n", " "
            )
            excrepr.reprtraceback.reprentries = [ReprEntryNative([f"pinpoint: {text}\n"])]
            if isinstance(excrepr, ExceptionChainRepr):
                excrepr.chain = [(excrepr.reprtraceback, None, None)]

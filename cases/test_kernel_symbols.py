"""Other tables in the kernel's file confirm the symbols that the `elf` witness computes with.

The symbols of a packaged kernel are recovered from its kallsyms, so on such a kernel the `elf` witness alone compares
kallsyms with a copy of itself. `__ksymtab`, `__mcount_loc`, the unwind table and BTF are written by other tools.
"""

from collections.abc import Callable

import pytest

from harness.landing.code.symbol_confirmations import SOURCES
from harness.landing.lookup.confirm_kernel_symbols import KernelSymbols
from harness.report.metrics_with_goals import Figure


@pytest.mark.mutants("swapped-symbols")
def test_confirmed_by_other_tables(kernel_symbols: KernelSymbols, figure: Callable[..., Figure]) -> None:
    """The address of each exported function in `__ksymtab` equals the address of its symbol.

    Figures count the functions that each table confirms, and those whose address any of them confirms.
    """
    functions, counts = kernel_symbols.confirm()
    figure("symbols.functions", functions, "functions")
    figure("symbols.independent", counts["independent"], "functions")
    for source in SOURCES:
        figure(f"symbols.independent.{source}", counts[source], "functions")

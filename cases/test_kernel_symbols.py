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


@pytest.mark.mutants("swapped-local-symbols")
def test_confirmed_by_the_debug_package(kernel_symbols: KernelSymbols, figure: Callable[..., Figure]) -> None:
    """The linker's symbols in Debian's debug package have the addresses of those recovered from kallsyms.

    Figures count the functions that are there and those that are not, the functions whose end without padding is known
    from the unwind table, and those of them whose end is the linker's.
    """
    if kernel_symbols.layout.guest.image.debug_symbols is None:
        pytest.skip("needs --debug-symbols, and a VM with Debian's kernel")
    confirmed, missing, ends = kernel_symbols.confirm_by_debug_package()
    figure("symbols.debug.confirmed", confirmed, "functions")
    figure("symbols.debug.missing", missing, "functions")
    for name, count in ends.items():
        figure(f"symbols.debug.ends.{name}", count, "functions")

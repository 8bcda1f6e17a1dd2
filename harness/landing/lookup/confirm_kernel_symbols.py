"""Compares the kernel's symbols with the independent sources in its file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from harness.core.elf import Symbol
from harness.landing.code.function_selection import text_functions_named_once
from harness.landing.code.symbol_confirmations import EXPORTS, symbol_confirmations
from harness.landing.landing_judgment import Missed
from harness.landing.layout import Layout
from harness.landing.mutants import HONEST, Mutant

_SHOWN = 10


@dataclass(frozen=True)
class KernelSymbols:
    """The functions of one guest's kernel with unique names. A mutant exchanges two of them."""

    layout: Layout
    mutant: Mutant = HONEST

    def confirm(self) -> tuple[int, Mapping[str, int]]:
        """Return the number of functions, and how many each source confirms.

        `independent` counts those whose address any source confirms. Raises Missed if an exported function's symbol has
        another address than `__ksymtab`, or if the file confirms the address of no function by its exports.
        """
        confirmations = symbol_confirmations(self.layout.kernel)
        functions = self._functions()
        wrong = confirmations.contradictions(functions)
        counts = confirmations.counts(functions)
        if wrong:
            lines = "\n".join(str(each) for each in wrong[:_SHOWN])
            raise Missed(f"{len(wrong)} symbols of the kernel are not where it exports them:\n{lines}")
        if not counts[EXPORTS]:
            raise Missed(f"no export of {self.layout.kernel.path.name} confirms a symbol")
        return len(functions), counts

    def _functions(self) -> Sequence[Symbol]:
        functions = text_functions_named_once(self.layout.kernel)
        return _with_exchanged_symbols(self.layout, functions) if self.mutant.exchanges_symbols else functions


def _with_exchanged_symbols(layout: Layout, functions: Sequence[Symbol]) -> Sequence[Symbol]:
    """The functions, with the addresses of the first two exported ones exchanged."""
    confirmations = symbol_confirmations(layout.kernel)
    first, second = [each for each in functions if EXPORTS in confirmations.sources_of(each)][:2]
    exchanged = {first: first._replace(address=second.address), second: second._replace(address=first.address)}
    return [exchanged.get(each, each) for each in functions]

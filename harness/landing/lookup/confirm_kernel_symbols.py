"""Compares the kernel's symbols with the independent sources in its file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from harness.core.elf import Symbol
from harness.landing.code.function_selection import text_functions_named_once
from harness.landing.code.symbol_confirmations import DEBUG, EXPORTS
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
        another address than `__ksymtab`, if a function has another one in the debug package, or if the file confirms
        the address of no function by its exports.
        """
        confirmations = self.layout.symbol_confirmations
        functions = self._functions()
        wrong = confirmations.contradictions(functions)
        counts = confirmations.counts(functions)
        if wrong:
            lines = "\n".join(str(each) for each in wrong[:_SHOWN])
            raise Missed(f"{len(wrong)} symbols of the kernel are not where other tables have them:\n{lines}")
        if not counts[EXPORTS]:
            raise Missed(f"no export of {self.layout.kernel.path.name} confirms a symbol")
        return len(functions), counts

    def confirm_by_debug_package(self) -> tuple[int, int, Mapping[str, int]]:
        """Return how many functions the debug package has, how many it lacks, and the counts of their ends.

        Raises Missed if a function has another address there, or if it confirms less than half of the functions.
        """
        functions, counts = self.confirm()
        if 2 * counts[DEBUG] < functions:
            raise Missed(f"the debug package has only {counts[DEBUG]} of {functions} functions")
        return counts[DEBUG], functions - counts[DEBUG], self.layout.symbol_confirmations.size_counts(self._functions())

    def _functions(self) -> Sequence[Symbol]:
        functions = text_functions_named_once(self.layout.kernel)
        which = self.mutant.exchanges_symbols
        return _with_exchanged_symbols(self.layout, functions, exported=which == "exported") if which else functions


def _with_exchanged_symbols(layout: Layout, functions: Sequence[Symbol], *, exported: bool) -> Sequence[Symbol]:
    """The functions, with two addresses exchanged: of the first two exported ones, or of two that `debug` has alone."""
    confirmations = layout.symbol_confirmations

    def is_wanted(function: Symbol) -> bool:
        sources = confirmations.sources_of(function)
        return EXPORTS in sources if exported else DEBUG in sources and EXPORTS not in sources

    wanted = list(filter(is_wanted, functions))
    first, second = wanted[0], next(each for each in wanted if each.address != wanted[0].address)
    exchanged = {first: first._replace(address=second.address), second: second._replace(address=first.address)}
    return [exchanged.get(each, each) for each in functions]

"""The kernel's own table of names, /proc/kallsyms: what symbol + offset is resolved by."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache

from harness.core.elf import Elf, Symbol
from harness.guest.guest import Guest
from harness.guest.result import readable
from harness.landing.code.functions import BLACKLIST, PREAMBLES, blacklist, evenly
from harness.landing.code.instruction import Flow, InstructionKind
from harness.landing.code.instructions import first
from harness.landing.layout import Layout
from harness.landing.site import Site

# Types of code, also weak, as nm(1) writes them.
_CODE = "tTwW"


@readable("/proc/kallsyms")
def missed_by_symbol(layout: Layout, functions: Iterable[tuple[Site, int]]) -> list[Site]:
    """The functions that the kernel would not find, or find elsewhere than the address paired with each.

    The kernel takes the first entry of a name (kallsyms_lookup_name(), kernel/kallsyms.c, 6.1), for MOD:SYM the first
    of that module.
    """
    found: dict[tuple[str, str], int] = {}
    for line in layout.guest.read_text("/proc/kallsyms").splitlines():
        address, kind, name, *module = line.split()
        if kind in _CODE:
            found.setdefault((module[0].strip("[]") if module else "", name), int(address, 16))
    return [site for site, truth in functions if found.get((site.module, site.symbol)) != truth]


@readable("the blacklist of kprobes")
def blacklisted(guest: Guest) -> list[str]:
    """The names on the kernel's own blacklist that can be asked for, those it has once, in its order."""
    names = Counter(line.split()[-1] for line in guest.read_text(BLACKLIST).splitlines())
    return [name for name, times in names.items() if name.isidentifier() and times == 1]


def converts_addresses(layout: Layout) -> bool:
    """Does this kernel make closest symbol + offset of every address before it registers, and an address of that again?

    By the function that it lets architectures adjust the result with (kernel/kprobes.c, since 5.18).
    """
    return bool(layout.kernel.named("arch_adjust_kprobe_addr"))


def freed(layout: Layout) -> list[str]:
    """The kernel's functions of unique name between `_sinittext` and `_einittext`, which are freed at boot."""
    inside = range(*(layout.kernel.named(name)[0].address for name in ("_sinittext", "_einittext")))
    named = _by_name(layout.kernel)
    return [name for name, (symbol, *others) in named.items() if not others and _is_function(symbol, inside)]


def used_twice(layout: Layout, count: int) -> list[str]:
    """`count` names, evenly spread, that several functions of the kernel's text and nothing else have.

    Without those of which one may not be probed: on the blacklist, or a mere BUG() (find_bug(), lib/bug.c, 6.1).
    """
    inside = layout.kernel.text_range
    forbidden = [range(start - layout.slide, end - layout.slide) for start, end in blacklist(layout.guest)]
    return evenly(list(_shared(layout, inside, forbidden)), count)


def _shared(layout: Layout, inside: range, forbidden: Sequence[range]) -> Iterator[str]:
    for name, named in _by_name(layout.kernel).items():
        if len(named) > 1 and all(_is_function(symbol, inside) for symbol in named):
            clear = not any(symbol.address in each for each in forbidden for symbol in named)
            if clear and not any(_traps(layout, symbol) for symbol in named):
                yield name


@lru_cache(maxsize=8)
def _by_name(kernel: Elf) -> Mapping[str, Sequence[Symbol]]:
    found: defaultdict[str, list[Symbol]] = defaultdict(list)
    for symbol in kernel.symbols:
        if symbol.section and symbol.name.isidentifier() and not symbol.name.startswith(PREAMBLES):
            found[symbol.name].append(symbol)
    return found


def _is_function(symbol: Symbol, inside: range) -> bool:
    return symbol.kind == "func" and symbol.address in inside


def _traps(layout: Layout, symbol: Symbol) -> bool:
    """True for a function that begins with a trap."""
    begins = first(layout.kernel, symbol, layout.decoder)
    return begins is None or (begins.flow is Flow.ENDS and begins.kind is InstructionKind.OTHER)

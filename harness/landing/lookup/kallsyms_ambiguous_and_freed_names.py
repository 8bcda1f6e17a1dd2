"""Checks of /proc/kallsyms, the table of names by which the kernel resolves symbol + offset."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache

from harness.core.elf import Elf, Symbol
from harness.guest.guest import Guest
from harness.guest.result import parsing_guest_text
from harness.landing.code.function_descriptors import has_dotted_functions
from harness.landing.code.function_selection import BLACKLIST, PREAMBLES, evenly_spread, read_blacklist_ranges
from harness.landing.code.instruction import Flow, InstructionKind
from harness.landing.code.instructions import instruction_at_function_start
from harness.landing.code.kernel_file import name_in_kallsyms
from harness.landing.code.patch_sites import table_addresses
from harness.landing.code.patch_tables import JUMPS, STATIC_CALLS
from harness.landing.layout import Layout
from harness.landing.site import Site

# Symbol types of code, including weak symbols, as in nm(1).
_CODE = "tTwW"


@parsing_guest_text("/proc/kallsyms")
def functions_missed_by_symbol(layout: Layout, functions: Iterable[tuple[Site, int]]) -> list[Site]:
    """The functions that the kernel would not find by name, or would find at an address other than the given one.

    The kernel uses the first entry with a name (kallsyms_lookup_name(), kernel/kallsyms.c, 6.1), and for MOD:SYM the
    first entry of that module. Where functions have descriptors, it looks for the name with a dot
    (kprobe_lookup_name(), arch/powerpc/kernel/kprobes.c).
    """
    functions, dotted = list(functions), has_dotted_functions(layout.kernel)
    modules = {site.module for site, _ in functions}
    # A kernel's listing has 5 MB, which the guest's SSH server has to encrypt; most of a module's trial is this.
    lines = f" [{_CODE}] " if "" in modules else "\\|".join(f"\\[{module}\\]$" for module in sorted(modules))
    found: dict[tuple[str, str], int] = {}
    for line in layout.guest.run("grep", lines, "/proc/kallsyms").stdout.splitlines():
        address, kind, listed, *module = line.split()
        name = listed if module else name_in_kallsyms(layout.guest.image, listed)
        # Other kernels have local labels whose names begin with a dot, and functions without a dot.
        name = name.removeprefix(".") if dotted else name
        if kind in _CODE:
            found.setdefault((module[0].strip("[]") if module else "", name), int(address, 16))
    return [site for site, truth in functions if found.get((site.module, site.symbol)) != truth]


@parsing_guest_text("the blacklist of kprobes")
def unique_blacklisted_names(guest: Guest) -> list[str]:
    """The names that occur exactly once in the kernel's blacklist and are identifiers, in its order."""
    names = Counter(line.split()[-1] for line in guest.read_text(BLACKLIST).splitlines())
    return [name for name, times in names.items() if name.isidentifier() and times == 1]


def kernel_converts_addresses(layout: Layout) -> bool:
    """True if register_kprobe() converts every address to closest symbol + offset and back before it registers.

    Such a kernel has a function with which an architecture can adjust the result (kernel/kprobes.c, since 5.18).
    """
    return bool(layout.kernel.symbols_named("arch_adjust_kprobe_addr"))


def freed_kernel_init_function_names(layout: Layout) -> list[str]:
    """The names of functions between `_sinittext` and `_einittext`, which are freed at boot; only unique names."""
    inside = range(*(layout.kernel.symbols_named(name)[0].address for name in ("_sinittext", "_einittext")))
    named = _by_name(layout.kernel)
    return [name for name, (symbol, *others) in named.items() if not others and _is_function(symbol, inside)]


def sample_ambiguous_names(layout: Layout, count: int) -> list[str]:
    """`count` names, evenly spread, that are shared by several functions of the kernel's text and by nothing else.

    A name is left out if one of its functions cannot be probed, because it is on the blacklist, consists of a BUG()
    only (find_bug(), lib/bug.c, 6.1), or begins with a jump label, a static call or an instruction that is not stepped.
    So is one on which a probe ends in endless traps (docs/findings.md).
    """
    inside = layout.kernel.text_range
    forbidden = [range(start - layout.slide, end - layout.slide) for start, end in read_blacklist_ranges(layout.guest)]
    patched = {address for table in (JUMPS, STATIC_CALLS) for address in table_addresses(layout.kernel, table)}
    return evenly_spread(list(_shared(layout, inside, forbidden, patched)), count)


def functions_without_a_way_back(layout: Layout) -> tuple[int, list[Symbol]]:
    """The number of functions of the kernel's text whose name another one has, and those that their name does not find.

    By name the kernel finds the function at the lowest address. The second value has those that can be probed.
    """
    inside = layout.kernel.text_range
    named = [found for found in _by_name(layout.kernel).values() if len(found) > 1]
    shared = sum(sum(_is_function(symbol, inside) for symbol in found) for found in named)
    probed = set(sample_ambiguous_names(layout, len(named)))
    behind = [sorted(found, key=lambda each: each.address)[1:] for found in named if found[0].name in probed]
    return shared, [symbol for found in behind for symbol in found]


def _shared(layout: Layout, inside: range, forbidden: Sequence[range], patched: Collection[int]) -> Iterator[str]:
    for name, named in _by_name(layout.kernel).items():
        if name in layout.guest.architecture.kprobe_traits.trap_handlers_functions:
            continue
        if len(named) > 1 and all(_is_function(symbol, inside) for symbol in named):
            clear = not any(symbol.address in each for each in forbidden for symbol in named)
            if clear and not any(_begins_unprobed(layout, symbol, patched) for symbol in named):
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


def _begins_unprobed(layout: Layout, symbol: Symbol, patched: Collection[int]) -> bool:
    """True if the kernel patches the place where a probe on the entry lands, or does not step the instruction there."""
    pad = layout.entry_shift_of(layout.kernel, symbol)
    if symbol.address + pad in patched:
        return True
    begins = instruction_at_function_start(layout.kernel, symbol, layout.decoder, landing_pad=pad)
    if begins is None or begins.flow in (Flow.REFUSED, Flow.UNKNOWN):
        return True
    return begins.flow is Flow.ENDS and begins.kind is InstructionKind.OTHER

"""One function of a trial of relocation by hand as an example, and a sample of its text layout."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from harness.landing.checks.classify_address import AddressClassifier, AddressKind
from harness.landing.checks.relocation_by_hand_trial import RelocatedFunction, Trial
from harness.landing.code.function_selection import evenly_spread

# A stretch shows some bytes before the address and more after it.
_BEFORE, _AFTER = 8, 24
_FUNCTIONS = 48
# The kinds of miss from the most instructive: a probe that is taken silently comes first.
_CHOICE = (
    AddressKind.INSTRUCTION,
    AddressKind.STUB,
    AddressKind.MID_INSTRUCTION,
    AddressKind.PADDING,
    AddressKind.UNNAMED,
    AddressKind.OUTSIDE,
)


class BytesAroundAddress(NamedTuple):
    """The bytes around an address.

    `address_kinds` names what stands at each, `marked_index` is the index of the address.
    """

    address: int
    code: bytes
    address_kinds: Sequence[AddressKind]
    marked_index: int
    label: str


def read_bytes_around_address(places: AddressClassifier, address: int) -> BytesAroundAddress | None:
    """The bytes around an address, of the ELF file or, in a module, of guest memory; None outside of text."""
    if places.classify(address) is AddressKind.OUTSIDE:
        return None
    known = [places.classify(each) for each in range(address - _BEFORE, address + _AFTER)]
    first = next(index for index in range(_BEFORE + 1) if AddressKind.OUTSIDE not in known[index : _BEFORE + 1])
    end = next((index for index in range(_BEFORE, len(known)) if known[index] is AddressKind.OUTSIDE), len(known))
    start = address - _BEFORE + first
    return BytesAroundAddress(
        start, places.code(start, end - first), known[first:end], _BEFORE - first, places.describe_address(address)
    )


def select_example_function(trial: Trial) -> RelocatedFunction | None:
    """The miss to draw: the most instructive kind, closest to its function; without one, a function that lands."""
    misses = sorted(
        trial.functions_missed_by_hand,
        key=lambda aim: (_CHOICE.index(aim.kind_at_address), abs(aim.computed_address - aim.true_address)),
    )
    return next(iter(misses or trial.functions), None)


def sample_distances_from_base(trial: Trial) -> Iterator[tuple[str, int, int, int]]:
    """Some functions, spread evenly: name, distance from the base as compiled in and here, and size, in bytes."""
    for aim in evenly_spread(trial.functions, _FUNCTIONS):
        base = trial.by_hand.base(aim.site.module)
        size = trial.layout.elf_and_symbol(aim.site)[1].size
        yield aim.site.symbol, trial.by_hand.offset(aim.site), aim.true_address - base, size

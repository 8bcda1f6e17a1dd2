"""One function of a trial of relocation by hand as an example, and a sample of its text layout."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from harness.landing.checks.base_offset_trial import RelocatedFunction, Trial
from harness.landing.checks.classify_address import AddressClassifier, AddressKind
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


class Stretch(NamedTuple):
    """The bytes around an address; `kinds` names what stands at each, `marked` is the index of the address."""

    address: int
    code: bytes
    kinds: Sequence[AddressKind]
    marked: int
    label: str


def stretch(places: AddressClassifier, address: int) -> Stretch | None:
    """The bytes around an address, of the ELF file or, in a module, of guest memory; None outside of text."""
    if places.classify(address) is AddressKind.OUTSIDE:
        return None
    known = [places.classify(each) for each in range(address - _BEFORE, address + _AFTER)]
    first = next(index for index in range(_BEFORE + 1) if AddressKind.OUTSIDE not in known[index : _BEFORE + 1])
    end = next((index for index in range(_BEFORE, len(known)) if known[index] is AddressKind.OUTSIDE), len(known))
    start = address - _BEFORE + first
    return Stretch(start, places.code(start, end - first), known[first:end], _BEFORE - first, places.label(address))


def example(trial: Trial) -> RelocatedFunction | None:
    """The miss to draw: the most instructive kind, closest to its function; without one, a function that lands."""
    misses = sorted(trial.missed, key=lambda aim: (_CHOICE.index(aim.place), abs(aim.address - aim.truth)))
    return next(iter(misses or trial.aims), None)


def moved(trial: Trial) -> Iterator[tuple[str, int, int, int]]:
    """Some functions, spread evenly: name, distance from the base as compiled in and here, and size, in bytes."""
    for aim in evenly_spread(trial.aims, _FUNCTIONS):
        base = trial.by_hand.base(aim.site.module)
        size = trial.layout.symbol(aim.site)[1].size
        yield aim.site.symbol, trial.by_hand.offset(aim.site), aim.truth - base, size

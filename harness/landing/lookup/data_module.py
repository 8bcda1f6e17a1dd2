"""Queries the module pinpoint_data for the kernel's symbol of an address and for the bytes there."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from harness.guest.guest import Guest
from harness.guest.result import parsing_guest_text
from harness.landing.code import closest_symbol
from harness.landing.code.closest_symbol import KernelSymbolOffset

_MODULE = "pinpoint_data"
# One argument of a command can have 128 KiB (MAX_ARG_STRLEN), and a question has at most 30 characters.
_AT_ONCE = 2000


@dataclass(frozen=True)
class AddressReadRequest:
    """An address, and the number of bytes to read there; `cpu` selects a CPU's copy of a per-CPU variable."""

    address: int
    size: int = 0
    cpu: int | None = None

    @property
    def spec(self) -> str:
        """The question in the module's format: `0xADDR/SIZE@CPU`."""
        return f"{self.address:#x}/{self.size}{'' if self.cpu is None else f'@{self.cpu}'}"


@dataclass(frozen=True)
class ReadResult:
    """The kernel's answer.

    `address` is the address that was read; for a per-CPU variable it is the CPU's copy. `content` ends where nothing is
    mapped, and `errno` is then positive. `symbol` is the result of sprint_symbol() for the queried address, None if it
    found no symbol.
    """

    address: int
    content: bytes
    errno: int
    symbol: KernelSymbolOffset | None


def read_data(guest: Guest, questions: Sequence[AddressReadRequest]) -> list[ReadResult]:
    """Return the answers to all questions, in order. Raises GuestError if the module fails.

    2000 questions take one round trip.
    """
    found: list[ReadResult] = []
    for start in range(0, len(questions), _AT_ONCE):
        found += _ask(guest, questions[start : start + _AT_ONCE])
    return found


def _ask(guest: Guest, questions: Sequence[AddressReadRequest]) -> list[ReadResult]:
    load = shlex.join(["insmod", guest.copy_module(_MODULE), f"at={','.join(question.spec for question in questions)}"])
    report = f"/sys/kernel/debug/{_MODULE}/report"
    # The module is unloaded even if the report cannot be read.
    answer = guest.run_script(
        f"{load} && {{ cat {report}; rc=$?; rmmod {_MODULE} && [ $rc = 0 ]; }}", in_place=True
    ).check()
    return parse_results(answer.stdout)


@parsing_guest_text("the data module's list of resolved symbols")
def resolve_symbol(guest: Guest, symbol: str) -> int:
    """Return the address at which the module, inside the kernel, finds a symbol; 0 if the kernel does not know it.

    `symbol` is `SYM` or `MOD:SYM`. For a per-CPU variable it is the address that per_cpu_ptr() takes. Raises GuestError
    if the module fails.
    """
    load = shlex.join(["insmod", guest.copy_module(_MODULE), f"resolve={symbol}"])
    listing = f"/sys/kernel/debug/{_MODULE}/resolved"
    answer = guest.run_script(f"{load} && {{ cat {listing}; rc=$?; rmmod {_MODULE} && [ $rc = 0 ]; }}", in_place=True)
    name, address = answer.check().stdout.split()
    if name != symbol:
        raise ValueError(name)
    return int(address, 16)


@parsing_guest_text("the data module's report")
def parse_results(report: str) -> list[ReadResult]:
    """Parse the lines of a report: words `key=value`, and last the symbol, which may have a space before a module."""
    answers = []
    for line in report.splitlines():
        words, _, symbol = line.partition(" symbol=")
        fields = dict(word.split("=", 1) for word in words.split())
        answers.append(
            ReadResult(
                address=int(fields["address"], 16),
                content=bytes.fromhex(fields["bytes"]),
                errno=int(fields["errno"]),
                symbol=closest_symbol.parse_symbol_offset(symbol),
            )
        )
    return answers

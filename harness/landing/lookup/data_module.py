"""Query pinpoint_data for the kernel's symbol of an address and for the bytes there."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from harness.guest.guest import Guest
from harness.guest.result import readable
from harness.landing.code import closest_symbol
from harness.landing.code.closest_symbol import KernelSymbolOffset

_MODULE = "pinpoint_data"
# A command line's one argument may be 128 KiB long (MAX_ARG_STRLEN), and a question is at most 30 characters.
_AT_ONCE = 2000


@dataclass(frozen=True)
class Question:
    """An address, and how many bytes to read there; with `cpu`, of that CPU's copy of a per-CPU variable."""

    address: int
    size: int = 0
    cpu: int | None = None

    @property
    def spec(self) -> str:
        """As the module takes it: `0xADDR/SIZE@CPU`."""
        return f"{self.address:#x}/{self.size}{'' if self.cpu is None else f'@{self.cpu}'}"


@dataclass(frozen=True)
class Answer:
    """The kernel's answer.

    `address` is where it read, of a per-CPU variable the CPU's copy; `content` ends where nothing is mapped, `errno` is
    then positive; `symbol` is sprint_symbol()'s name of the queried address, None when it knows no symbol.
    """

    address: int
    content: bytes
    errno: int
    symbol: KernelSymbolOffset | None


def ask(guest: Guest, questions: Sequence[Question]) -> list[Answer]:
    """All answers, in order; one round trip for every two thousand. Raises GuestError when the module fails."""
    found: list[Answer] = []
    for start in range(0, len(questions), _AT_ONCE):
        found += _ask(guest, questions[start : start + _AT_ONCE])
    return found


def _ask(guest: Guest, questions: Sequence[Question]) -> list[Answer]:
    load = shlex.join(["insmod", guest.ship(_MODULE), f"at={','.join(question.spec for question in questions)}"])
    report = f"/sys/kernel/debug/{_MODULE}/report"
    # The module goes whatever became of the report.
    answer = guest.script(
        f"{load} && {{ cat {report}; rc=$?; rmmod {_MODULE} && [ $rc = 0 ]; }}", in_place=True
    ).check()
    return parse(answer.stdout)


@readable("the data module's report")
def parse(report: str) -> list[Answer]:
    """The report's lines: `key=value` words, the symbol last because it may have a module's name behind a space."""
    answers = []
    for line in report.splitlines():
        words, _, symbol = line.partition(" symbol=")
        fields = dict(word.split("=", 1) for word in words.split())
        answers.append(
            Answer(
                address=int(fields["address"], 16),
                content=bytes.fromhex(fields["bytes"]),
                errno=int(fields["errno"]),
                symbol=closest_symbol.read(symbol),
            )
        )
    return answers

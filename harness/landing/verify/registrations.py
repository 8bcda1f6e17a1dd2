"""Every call of register_kprobe() in a guest while `pinpoint_watch` is loaded there (probes/watch/records.c)."""

from __future__ import annotations

import errno
import re
from dataclasses import dataclass

from harness.core.errors import GuestError
from harness.guest.guest import Guest

MODULE = "pinpoint_watch"
FILE = f"/sys/kernel/debug/{MODULE}/registrations"
_OCTAL = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True)
class Registration:
    """One call: what was asked for, and what the kernel returned.

    `nanoseconds` is the guest's monotonic time at the call; `errno` is positive, 0 for a kprobe that was registered;
    `address` is `kp.addr`, 0 when refused; `symbol` is empty for a kprobe that was asked for by address, else `SYM` or
    `MOD:SYM`; `handler` is the address of the pre-handler; `command` is the name of the calling process.
    """

    nanoseconds: int
    errno: int
    address: int
    symbol: str
    offset: int
    handler: int
    command: str
    disabled: bool

    @property
    def refusal(self) -> str:
        """The errno as a name, empty for a kprobe that was registered."""
        return errno.errorcode.get(self.errno, str(self.errno)) if self.errno else ""

    @property
    def asked(self) -> str:
        """What was asked for, as `MOD:SYM+0xOFF`; empty for an address."""
        return f"{self.symbol}+{self.offset:#x}" if self.symbol else ""


@dataclass(frozen=True)
class Records:
    """What the module recorded: the calls in the order of their return, how many did not fit, the time of reading."""

    calls: tuple[Registration, ...] = ()
    lost: int = 0
    nanoseconds: int = 0


def parse(text: str) -> Records:
    """Read the module's file. Raises GuestError, one line, for anything else."""
    calls, lost, now = [], 0, 0
    for line in text.splitlines():
        fields = dict(word.split("=", 1) for word in line.split(" ") if "=" in word)
        try:
            if "now" in fields:
                lost, now = int(fields["lost"]), int(fields["now"])
            else:
                calls.append(_call(fields))
        except (KeyError, ValueError):
            raise GuestError(f"not a registration: {line[:80]!r}", where=MODULE) from None
    return Records(tuple(calls), lost, now)


def _call(fields: dict[str, str]) -> Registration:
    symbol = _plain(fields["symbol"])
    return Registration(
        nanoseconds=int(fields["time"]),
        errno=int(fields["errno"]),
        address=int(fields["address"], 16),
        symbol="" if symbol == "-" else symbol,
        offset=int(fields["offset"]),
        handler=int(fields["handler"], 16),
        command=_plain(fields["command"]),
        disabled=fields["disabled"] == "1",
    )


def _plain(text: str) -> str:
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), text)


def start(guest: Guest) -> None:
    """Load the module. Raises GuestError when the kernel refuses it."""
    argument = guest.architecture.kprobes.first_argument
    guest.run("insmod", guest.copy_module(MODULE), f"argument={argument}").check()


def stop(guest: Guest) -> None:
    """Unload the module. Raises GuestError when the kernel refuses."""
    guest.run("rmmod", MODULE).check()

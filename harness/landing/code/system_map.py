"""Reads a System.map, which lists the symbols of a kernel build by address."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from harness.core.elf import Elf
from harness.core.errors import UsageError
from harness.core.files import read_regular_file

# The map of another build of the same source has some symbols at the same addresses, but never nearly all.
_SHARE = 0.99
# Debian's kernel package has a dummy file of one line instead of a map.
_FEWEST = 100
# That of a kernel with every driver built in has some 30 MB.
_LARGEST = 256 << 20
_TEXT = frozenset("tTwW")


@dataclass(frozen=True)
class SystemMap:
    """The text symbols of a map: link addresses in ascending order, and a name for each."""

    path: Path
    addresses: list[int]
    names: list[str]

    @classmethod
    def read(cls, path: Path) -> SystemMap:
        """Read lines `ADDRESS LETTER NAME`. Raises UsageError (one line) if the file has other lines."""
        try:
            lines = read_regular_file(path, _LARGEST).decode().splitlines()
        except OSError as error:
            raise UsageError(str(error.strerror), where=str(path), mend="give a kernel's System.map") from None
        except UnicodeDecodeError:
            raise UsageError("is not a text file", where=str(path), mend="give a kernel's System.map") from None
        symbols = []
        for number, line in enumerate(lines, 1):
            try:
                address, letter, name = line.split()
                place = int(address, 16)
            except ValueError:
                mend = "lines are `ADDRESS LETTER NAME`"
                raise UsageError(f"not a symbol: {line[:40]!r}", where=f"{path}:{number}", mend=mend) from None
            if letter in _TEXT:
                symbols.append((place, name))
        if len(symbols) < _FEWEST:
            mend = "Debian keeps the real one in the kernel's -dbg package"
            raise UsageError(f"has {len(symbols)} text symbols", where=str(path), mend=mend)
        symbols.sort()
        return cls(path, [place for place, _ in symbols], [name for _, name in symbols])

    def demand_map_of(self, kernel: Elf) -> None:
        """Raise UsageError, with the number of names that agree, unless this is the map of this kernel."""
        ours, theirs = self._unique(), _unique(kernel)
        shared = ours.keys() & theirs.keys()
        agree = sum(ours[name] == theirs[name] for name in shared)
        if not shared or agree < _SHARE * len(shared):
            raise UsageError(
                f"is of another kernel: {agree} of {len(shared)} names that it shares are at the same address",
                where=str(self.path),
                mend="give the map of the VM's own kernel, or none",
            )

    def describe_address(self, linked: int) -> str:
        """The closest symbol at or below a link address, as symbol + offset; "" if there is none."""
        index = bisect_right(self.addresses, linked) - 1
        return f"{self.names[index]}+{linked - self.addresses[index]:#x}" if index >= 0 else ""

    def _unique(self) -> Mapping[str, int]:
        named = Counter(self.names)
        return {name: place for place, name in zip(self.addresses, self.names, strict=True) if named[name] == 1}


def _unique(kernel: Elf) -> Mapping[str, int]:
    functions = [symbol for symbol in kernel.symbols if symbol.kind == "func" and symbol.section]
    named = Counter(symbol.name for symbol in functions)
    return {symbol.name: symbol.address for symbol in functions if named[symbol.name] == 1}

"""A site: a symbol and an offset, and the module that defines the symbol."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Site:
    """A symbol and an offset in bytes.

    `module` is the module that defines the symbol, empty for vmlinux. A `plain` site is asked for by the symbol's name
    alone even when a module defines it; otherwise a module's site is written `MOD:SYM` (kernel/kprobes.c,
    _kprobe_addr(): the symbol name goes through kallsyms_lookup_name(), which takes that form).
    """

    symbol: str
    offset: int = 0
    module: str = ""
    plain: bool = False

    def at(self, offset: int) -> Site:
        """The same symbol at another offset from its start."""
        return replace(self, offset=offset)

    @property
    def spec(self) -> str:
        """What the probe module is given: `MOD:SYM+0xOFF`."""
        module = f"{self.module}:" if self.module and not self.plain else ""
        offset = f"+{self.offset:#x}" if self.offset else ""
        return f"{module}{self.symbol}{offset}"

    def __str__(self) -> str:
        where = f" [{self.module}]" if self.module else ""
        return f"{self.symbol}+{self.offset:#x}{where}"

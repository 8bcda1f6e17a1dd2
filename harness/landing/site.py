"""A site: a symbol and an offset, and the module that defines the symbol."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Site:
    """A symbol and an offset in bytes.

    `module` is the module that defines the symbol, empty for vmlinux. A site in a module is written `MOD:SYM`, a form
    that kallsyms_lookup_name() accepts (_kprobe_addr(), kernel/kprobes.c, calls it with the symbol name). A
    `omits_module` site is written with the symbol's name alone, even if a module defines it.
    """

    symbol: str
    offset: int = 0
    module: str = ""
    omits_module: bool = False

    def at_offset(self, offset: int) -> Site:
        """The same symbol at another offset from its start."""
        return self if offset == self.offset else replace(self, offset=offset)

    @property
    def spec(self) -> str:
        """The site as a parameter of the probe module: `MOD:SYM+0xOFF`."""
        module = f"{self.module}:" if self.module and not self.omits_module else ""
        offset = f"+{self.offset:#x}" if self.offset else ""
        return f"{module}{self.symbol}{offset}"

    def __str__(self) -> str:
        where = f" [{self.module}]" if self.module else ""
        return f"{self.symbol}+{self.offset:#x}{where}"

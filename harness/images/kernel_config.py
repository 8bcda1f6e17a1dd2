"""Kernel configurations from fragments: merged in order and checked after Kconfig has processed them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.core import paths
from harness.core.errors import RecipeError

OFF = "n"

# The prefix of options that our own patches add; only the linker script reads them.
_LINKERS = "CONFIG_PINPOINT_"

_SET = re.compile(r"(CONFIG_\w+)=(.+)")
_NOT_SET = re.compile(r"# (CONFIG_\w+) is not set")
# A Kconfig entry ends where the next one begins, at the start of a line.
_KCONFIG_ENTRY = re.compile(r"^(?:menu)?config (\w+)\n((?:[ \t].*\n|\n)*)", re.MULTILINE)
_DEPENDS = re.compile(r"^\s+depends on (.+)", re.MULTILINE)


@dataclass(frozen=True)
class Wish:
    """One option that a fragment sets: `value` as in a .config, `n` for an option that must be off."""

    option: str
    value: str
    fragment: Path
    line: int

    @property
    def file_and_line(self) -> str:
        """File and line, for messages."""
        return f"{self.fragment.name}:{self.line}"


def read_fragment(path: Path) -> list[Wish]:
    """Return the options of one fragment. Raises RecipeError on any other line and on an option set twice."""
    wishes: dict[str, Wish] = {}
    for number, raw in enumerate(path.read_text().splitlines(), start=1):
        line = raw.strip()
        option, value = _setting(line)
        if not option:
            if line and not line.startswith("#"):
                raise RecipeError(
                    f"not a kernel option: {line!r}",
                    where=f"{path.name}:{number}",
                    mend="write CONFIG_X=y, =m, =VALUE, or # CONFIG_X is not set",
                )
            continue
        if option in wishes:
            raise RecipeError(
                f"{option} is set twice",
                where=f"{path.name}:{number}",
                mend=f"remove this or line {wishes[option].line}",
            )
        wishes[option] = Wish(option, value, path, number)
    return list(wishes.values())


def merge(fragments: Sequence[Path]) -> dict[str, Wish]:
    """Return the options of all fragments, by name; a later fragment overrides an earlier one."""
    return {wish.option: wish for fragment in fragments for wish in read_fragment(fragment)}


def fragment_affects_compilation(fragment: Path) -> bool:
    """Return True when a fragment affects compilation: it sets other options than those of our own patches."""
    return not all(wish.option.startswith(_LINKERS) for wish in read_fragment(fragment))


def allconfig_text(wishes: Mapping[str, Wish]) -> str:
    """Return the text for KCONFIG_ALLCONFIG, each option once (scripts/kconfig/conf.c warns about duplicates)."""
    return "".join(
        f"# {wish.option} is not set\n" if wish.value == OFF else f"{wish.option}={wish.value}\n"
        for wish in wishes.values()
    )


def overlay(text: str, wishes: Mapping[str, Wish]) -> str:
    """Return a .config in which the wishes replace the previous settings of their options."""
    others = (line for line in text.splitlines() if _setting(line)[0] not in wishes)
    return "\n".join([*others, allconfig_text(wishes)])


def parse_set_options(text: str) -> dict[str, str]:
    """Parse a .config into a map of `CONFIG_X` to its value as written; an option that is not set is absent."""
    settings = (_setting(line) for line in text.splitlines())
    return {option: value for option, value in settings if option and value != OFF}


def check(wishes: Mapping[str, Wish], config: Mapping[str, str], source: Path) -> None:
    """Check that the resulting configuration has every wish.

    Kconfig silently drops settings of unknown options, of options with an absent dependency, and of options that
    another option selects. Raises RecipeError with the option, the fragment that sets it and its final value; `source`
    is the tree whose Kconfig files are then read for the reason.
    """
    lost = [wish for wish in wishes.values() if config.get(wish.option, OFF) != wish.value]
    if not lost:
        return
    first, *others = lost
    more = f" (and {len(others)} more: {', '.join(wish.option for wish in others)})" if others else ""
    raise RecipeError(
        f"{first.option}={first.value} was requested, but {_fate(first, config, source)}{more}",
        where=first.file_and_line,
        mend="set the options that it needs too, or remove it",
    )


def demand_needed(config: Mapping[str, str], architecture: str, where: str) -> None:
    """Demand the options that every guest needs, before anything boots.

    A driver may also be a module. Raises RecipeError with every missing option and the fragment that sets it.
    """
    wanted = merge([path for name in ("needed", f"needed-{architecture}") if (path := _fragment(name)).is_file()])
    missing = [wish for wish in wanted.values() if config.get(wish.option, OFF) not in _enough(wish)]
    if missing:
        named = ", ".join(f"{wish.option}={wish.value}" for wish in missing)
        files = " and ".join(dict.fromkeys(str(wish.fragment.relative_to(paths.PROJECT)) for wish in missing))
        raise RecipeError(f"lacks {named}", where=where, mend=f"set them; {files} has them as a fragment")


def _enough(wish: Wish) -> tuple[str, ...]:
    return ("y", "m") if wish.value == "m" else (wish.value,)


def _fragment(name: str) -> Path:
    return paths.RECIPES / "config" / f"{name}.config"


def _setting(line: str) -> tuple[str, str]:
    """Return option and value of one line of a .config; two empty strings for any other line."""
    if found := _SET.fullmatch(line):
        return found[1], found[2]
    if found := _NOT_SET.fullmatch(line):
        return found[1], OFF
    return "", ""


def _fate(wish: Wish, config: Mapping[str, str], source: Path) -> str:
    """Return the final state of a wish that the configuration lacks, for a message."""
    if wish.option in config:
        return f"it is {config[wish.option]} in the result"
    name = wish.option.removeprefix("CONFIG_")
    entries = [body for entry, body in _kconfig_entries(source) if entry == name]
    if not entries:
        return f"{source.name} has no such option"
    needs = dict.fromkeys(need.strip() for body in entries for need in _DEPENDS.findall(body))
    return "it is off in the result" + (f": it depends on {' and '.join(needs)}" if needs else "")


def _kconfig_entries(source: Path) -> Iterator[tuple[str, str]]:
    """Yield name and body of every option in the tree: a kernel for any architecture, or busybox (Config.in)."""
    for path in (*source.rglob("Kconfig*"), *source.rglob("Config.in")):
        if path.is_file():
            for entry in _KCONFIG_ENTRY.finditer(path.read_text(errors="replace")):
                yield entry[1], entry[2]

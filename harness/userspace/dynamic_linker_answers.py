"""Where ld.so placed a file, by its own answers, compared with the file's tables and the process's mappings."""

from __future__ import annotations

from harness.landing.landing_judgment import Missed
from harness.landing.site import Site
from harness.userspace import mapped_pages
from harness.userspace.mutants import HONEST
from harness.userspace.runner import Runner
from harness.userspace.uprobes_fixture import Uprobes
from harness.userspace.user_file import UserFile


def prove_linker_answers(uprobes: Uprobes, process: Runner, file: UserFile, site: Site) -> None:
    """Compare what ld.so answers about one function with four computations. Raises Missed at the first difference.

    The link_map in r_debug has the load bias; dladdr() has the address of the mapping, the file and the symbol.
    """
    view = mapped_pages.read_file_view(uprobes.guest, file, [process.pid], [])
    symbol = file.symbol_of_site(site)
    asked = (
        _following(file, site) if uprobes.mutant.offset_to_register is not HONEST.offset_to_register else site.symbol
    )
    answer = process.send_command(f"where {asked}")
    address, base = int(answer["address"], 16), int(answer["base"], 16)
    bias = base if uprobes.mutant.uses_base_as_bias else int(answer["bias"], 16)
    start = min(mapping.start for mapping in view.mappings)
    comparisons = (
        ("the mapping of the file begins", base, start),
        ("the link address, the pointer less the bias of r_debug, is", address - bias, symbol.address),
        ("the offset that the address shows is", view.file_offset(address), file.offset_of_site(site)),
        ("dladdr() names", answer["symbol"], site.symbol),
        ("dladdr() names the file", answer["file"], file.guest_path),
    )
    for what, found, wanted in comparisons:
        if found != wanted:
            raise Missed(f"{site}: {what} {_shown(found)}, not {_shown(wanted)}")


def _following(file: UserFile, site: Site) -> str:
    here = file.symbol_of_site(site).address
    exported = [
        each
        for each in file.functions_of_target_source
        if each.binding == "global" and not each.name.endswith("_spare")
    ]
    return next((each.name for each in exported if each.address > here), exported[0].name)


def _shown(value: int | str | None) -> str:
    return f"{value:#x}" if isinstance(value, int) else str(value)

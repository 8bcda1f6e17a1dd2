"""The probe module that was compiled for one build of each target, loaded in a guest and judged by its witnesses.

The module has section names, offsets and build-ids in its own memory (harness/images/precompiled_table.py). What
changes with each load comes from the kernel, or from the loader's tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from harness.core.elf import Elf
from harness.guest.guest import Guest
from harness.images.precompiled_table import PLACES, probed_sections
from harness.landing.landing_judgment import Missed
from harness.landing.layout import Layout
from harness.landing.site import Site
from harness.landing.target import Target
from harness.pinning.loaded_probe_landings import LoadedProbeRun
from harness.pinning.loader import LoaderExitStatus, LoaderOrder
from harness.pinning.loader_fixture import Loaders, expect_result

NAME = "pinpoint_precompiled"
MODULE = f"precompiled/{NAME}"
# The same probe with the symbols of its targets: it relocates by hand.
WITH_SYMBOLS = "precompiled/pinpoint_with_symbols"
# Where modules are compiled with -fPIC (s390), constants with addresses are apart from those without.
_CONSTANT_SECTIONS = (".rodata", ".data.rel.ro")
# A probe that has nothing of any target: the names in it are the harness's and the kernel's.
_GENERIC = "pinpoint_pinned"


def module_file(guest: Guest, *, with_symbols: bool = False) -> Path:
    """The module's file on the host."""
    return guest.image.modules[WITH_SYMBOLS if with_symbols else MODULE]


def finds_sections_in_kernel(guest: Guest) -> bool:
    """True if the module finds sections in the kernel's own record, and needs no section from the loader."""
    return Elf.read_cached(module_file(guest)).modinfo_value("section_lookup") == "kernel"


def precompiled_sites(guest: Guest) -> list[Site]:
    """The module's sites as function + offset, in the order of its report."""
    elves = {module: Elf.read_cached(guest.image.modules[module]) for module in PLACES}
    found = [(module, place.locate(elves[module])) for module, places in PLACES.items() for place in places]
    return [Site(location.function, location.function_offset, module=module) for module, location in found]


def site_sections_by_target(guest: Guest) -> Mapping[str, Sequence[str]]:
    """The section of each site, by target."""
    elves = {module: Elf.read_cached(guest.image.modules[module]) for module in PLACES}
    return {module: [place.locate(elves[module]).section for place in places] for module, places in PLACES.items()}


def precompiled_order(guest: Guest, *, in_memory: bool = False, with_symbols: bool = False) -> LoaderOrder:
    """The loader's order for the module: the targets and, where the module needs them, its sections' tokens."""
    module = WITH_SYMBOLS if with_symbols else MODULE
    sections = [
        (name, section)
        for name, places in PLACES.items()
        for section in probed_sections(Elf.read_cached(guest.image.modules[name]), places)
    ]
    return LoaderOrder(
        probe=guest.copy_module(module),
        module_name=module.rpartition("/")[2],
        targets=tuple(PLACES),
        sections=() if finds_sections_in_kernel(guest) else sections,
        load_from_memory=in_memory,
    )


def load_and_prove_landing(
    loaders: Loaders, targets: Mapping[str, Target], hits: Callable[[], Sequence[int]], how: LoaderOrder
) -> None:
    """Load the module, call `hits`, which runs the sites and returns how often each ran, and unload the module.

    Raises Missed unless each probe landed, by all witnesses, and was hit as often as its site ran.
    """
    layout = Layout(loaders.guest, targets.values())
    own = precompiled_sites(loaders.guest)
    parameters = list(how.parameters)
    if loaders.mutant.aims_past_site:
        shifts = (str(layout.next_instruction_site(site).offset - site.offset) for site in own)
        parameters.append(f"mutant_shift={','.join(shifts)}")
    with LoadedProbeRun(layout, own, how.module_name) as probe:
        expect_result(loaders.run(replace(how, parameters=parameters)), LoaderExitStatus.DONE)
        probe.read_while_registered()
        expected = hits()
    probe.prove(expected)


def expect_no_target_symbols(guest: Guest, module: Path) -> None:
    """Check that a probe's file contains no symbol of its targets, in no table and no string. Raises Missed.

    Names that a probe of no target has too, such as `init_module`, do not count, and neither do the names of the
    sections that the probe carries: on some architectures a function's section is named after it.
    """
    probe, content = Elf.read_cached(module), module.read_bytes()
    common = {symbol.name for symbol in Elf.read_cached(guest.image.modules[_GENERIC]).symbols}
    for name, places in PLACES.items():
        target = Elf.read_cached(guest.image.modules[name])
        for section in probed_sections(target, places):
            content = content.replace(f"{section}\0".encode(), b"\0")
        for symbol in {each.name for each in target.symbols if each.kind in ("func", "object") and each.section}:
            if symbol and symbol not in common and symbol.encode() in content:
                raise Missed(f"{module.name} contains {symbol!r}, a symbol of {name}")
        if target.build_id.encode() not in content:
            raise Missed(f"{module.name} does not contain the build-id of {name}")
    table = probe.symbols_named("pinpoint_builds")
    if len(table) != 1 or not table[0].section.startswith(_CONSTANT_SECTIONS):
        raise Missed(f"the table of {module.name} is not in its read-only data: {table}")

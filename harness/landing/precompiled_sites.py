"""Sites of a precompiled probe, each stored as a module's build-id, a section, and an offset into it.

No symbol is looked up when the probe is loaded. Its address is the section's address, from sysfs, plus the offset. The
sum is right only for the build that the offset was taken from, so the build-id is compared first.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from harness.core import source_line_to_offset
from harness.core.elf import Elf
from harness.core.errors import GuestError
from harness.landing.layout import Layout
from harness.landing.probe_module import ProbeModuleRequest
from harness.landing.site import Site
from harness.landing.target import Target


class OtherBuildError(GuestError):
    """A precompiled site is for another build of the module than the loaded one."""


@dataclass(frozen=True)
class PrecompiledSite(Site):
    """A site in one build of a module, with the data that a precompiled probe stores.

    `build_id` is in hex. `section_offset` is the offset into `section`, in bytes.
    """

    build_id: str = ""
    section: str = ""
    section_offset: int = 0

    @classmethod
    def at_line(cls, module: str, elf: Elf, file: str, line: int, function: str = "") -> PrecompiledSite:
        """The site at the start of a source line in one build of a module. Raises as `find_source_line`."""
        found = source_line_to_offset.find_source_line(elf, file, line, function)
        return cls(
            found.function,
            found.function_offset,
            module,
            build_id=elf.build_id,
            section=found.section,
            section_offset=found.offset,
        )

    def address(self, target: Target) -> int:
        """The site's address in the loaded module. Raises OtherBuildError if another build is loaded."""
        if target.build_id != self.build_id:
            raise OtherBuildError(
                f"{self.section}+{self.section_offset:#x} is for the {self.module} of build-id "
                f"{self.build_id or '(none)'}, loaded is {target.build_id or '(none)'}",
                where=target.guest.name,
                mend="compile the probe for the loaded build",
            )
        return target.sections[self.section] + self.section_offset


def request_by_section(layout: Layout, sites: Sequence[Site]) -> ProbeModuleRequest:
    """Request probes by address only: section address + offset for each PrecompiledSite.

    Raises OtherBuildError if another build of a module is loaded.
    """
    return _at(site.address(layout.targets[site.module]) for site in _carried(sites))


def request_without_build_check(layout: Layout, sites: Sequence[Site]) -> ProbeModuleRequest:
    """The mutant that does not compare build-ids."""
    return _unarmed(
        layout.targets[site.module].sections[site.section] + site.section_offset for site in _carried(sites)
    )


def request_at_previous_sections(layout: Layout, sites: Sequence[Site]) -> ProbeModuleRequest:
    """The mutant that uses the section addresses of the target's previous instance; right in the first instance."""
    carried = _carried(sites)
    before = {name: target.previous for name, target in layout.targets.items()}
    if not all(before[site.module] for site in carried):
        return request_by_section(layout, sites)
    return _unarmed(before[site.module][site.section] + site.section_offset for site in carried)


def _carried(sites: Sequence[Site]) -> list[PrecompiledSite]:
    carried = [site for site in sites if isinstance(site, PrecompiledSite)]
    if len(carried) != len(sites):
        raise TypeError(f"not all precompiled: {', '.join(map(str, sites))}")
    return carried


def _at(addresses: Iterable[int], *parameters: str) -> ProbeModuleRequest:
    return ProbeModuleRequest([f"@{address:#x}" for address in addresses], parameters)


def _unarmed(addresses: Iterable[int]) -> ProbeModuleRequest:
    """A request for a mutant's probes, unarmed, because they could hit anything."""
    return _at(addresses, "disabled=1")

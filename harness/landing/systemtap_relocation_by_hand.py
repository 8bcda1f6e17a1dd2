"""Relocation by hand, as systemtap's runtime did it when the letter of 2008 was written.

A probe was compiled with the distance of its site from one base: `_stext` in the vmlinux that it was made for, or the
text of a module's file. When the probe was loaded, staprun passed it the loaded address of the base (/proc/kallsyms,
sysfs), and the sum was the address (_stp_module_relocate(), runtime/sym.c of systemtap 0.6).
probes/byhand/base_index_spec.c computes the same sum.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence

from harness.core.elf import Elf, Section
from harness.landing.layout import ANCHOR, Layout
from harness.landing.probe_module import ProbeModuleRequest
from harness.landing.site import Site

MODULE = "pinpoint_byhand"


class RelocationByHandCalculator:
    """Relocation in one guest of probes that were made for its own kernel and modules, or for others.

    `vmlinux` is the kernel that the probes were made for, by default the guest's own. `modules` holds the module files
    that they were made for, by module name; a module that is left out is the guest's own. `absolute` probes were
    compiled with link-time addresses and do not use the loaded address of `_stext`.
    """

    def __init__(
        self,
        layout: Layout,
        *,
        vmlinux: Elf | None = None,
        modules: Mapping[str, Elf] | None = None,
        absolute: bool = False,
    ) -> None:
        self._layout = layout
        self._vmlinux = vmlinux or layout.kernel
        self._modules = {name: target.elf for name, target in layout.targets.items()} | dict(modules or {})
        self._absolute = absolute
        self._modulus = 1 << 8 * layout.guest.architecture.word_bytes

    def base(self, module: str) -> int:
        """The base that staprun passes: the loaded address of `_stext`, or of the lowest text section of a module."""
        if module:
            target = self._layout.targets[module]
            return target.sections[first_text_section_in_file(target.elf, target.sections).name]
        slide = 0 if self._absolute else self._layout.slide
        return self._layout.kernel.symbols_named(ANCHOR)[0].address + slide

    def offset(self, site: Site) -> int:
        """The offset that was compiled into the probe, in bytes from `_stext` or from the start of a module's text."""
        if not site.module:
            return (
                self._vmlinux.function(site.symbol).address
                - self._vmlinux.symbols_named(ANCHOR)[0].address
                + site.offset
            )
        made_for = self._modules[site.module]
        symbol = made_for.function(site.symbol)
        text = first_text_section_in_file(made_for, made_for.sections_by_name)
        return made_for.sections_by_name[symbol.section].offset + symbol.address - text.offset + site.offset

    def address(self, site: Site) -> int:
        """Base + offset, which wraps like the kernel's unsigned long."""
        return (self.base(site.module) + self.offset(site)) % self._modulus

    def build_request(self, sites: Sequence[Site], *parameters: str) -> ProbeModuleRequest:
        """The request for the probe module: the present bases, and each site's offset from one of them."""
        names = list(dict.fromkeys(site.module for site in sites))
        bases = ",".join(f"{self.base(name):#x}" for name in names)
        specs = [f"{names.index(site.module)}+{self.offset(site) % self._modulus:#x}" for site in sites]
        return ProbeModuleRequest(specs, [f"base={bases}", *parameters], MODULE)


def first_text_section_in_file(elf: Elf, loaded: Container[str]) -> Section:
    """The loaded text section with the lowest offset in a module's file."""
    text = (
        section
        for section in elf.sections_by_name.values()
        if section.name.startswith(".text") and section.name in loaded
    )
    return min((section for section in text if section.size), key=lambda section: section.offset)


# A mutant's probes could hit anything, so the kernel resolves and checks them, but does not arm them.
UNARMED = "disabled=1"


def request_from_text_base(layout: Layout, sites: Sequence[Site]) -> ProbeModuleRequest:
    """The mutant that computes a module's symbol as text base + file offset."""
    return RelocationByHandCalculator(layout).build_request(sites, UNARMED)


def request_for_other_build(layout: Layout, sites: Sequence[Site]) -> ProbeModuleRequest:
    """The mutant that uses another build's offset: from the kernel's sibling, or from the module's other layout."""
    return RelocationByHandCalculator(
        layout, vmlinux=layout.sibling_kernel, modules=layout.other_module_builds
    ).build_request(sites, UNARMED)

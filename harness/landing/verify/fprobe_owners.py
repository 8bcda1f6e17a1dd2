"""Who registered the fprobes on a function: the module that has the handler, or the handler of BPF or of tracefs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Self

from harness.core.errors import PinpointError
from harness.guest.guest import Guest
from harness.landing.verify.fprobes_in_guest_memory import Fprobe, read_fprobes
from harness.landing.verify.judged import JudgedProbe
from harness.landing.verify.loaded_modules import module_with_code, module_with_data
from harness.landing.verify.site_addresses_from_elf_files import LoadedFiles
from harness.landing.verify.traced_functions import TracedFunction


@dataclass(frozen=True)
class FprobeOwners:
    """The owners of the fprobes by ftrace site; `unknown_reason` is why they are not known, empty where they are."""

    by_site: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    unknown_reason: str = ""

    @classmethod
    def read(cls, guest: Guest, files: LoadedFiles) -> Self:
        """Read them from the guest's memory."""
        try:
            found = read_fprobes(guest)
        except PinpointError as error:
            return cls(unknown_reason=error.what)
        return cls({site: tuple(sorted({_owner(files, each) for each in fprobes})) for site, fprobes in found.items()})

    def add_owner(self, judged: JudgedProbe, traced: TracedFunction) -> JudgedProbe:
        """The verdict with the owners of the fprobes at its site, and its kind if nothing else traces it.

        The verdicts of other functions are returned as they are.

        Without them the owner remains the kernel's handler, which all fprobes share.
        """
        owners = self.by_site.get(judged.address or 0)
        if owners and traced.can_be_fprobe:
            kind = "fprobe" if traced.tracer_count == 1 else judged.kind
            return replace(judged, kind=kind, owner=", ".join(owners))
        if self.unknown_reason and traced.kind == "fprobe":
            return replace(judged, notes=(*judged.notes, f"its owner is not known: {self.unknown_reason}"))
        return judged


def _owner(files: LoadedFiles, fprobe: Fprobe) -> str:
    modules = files.modules.values()
    owner = module_with_code(modules, fprobe.handler) or module_with_data(modules, fprobe.address)
    return owner or files.describe_address(fprobe.handler).removesuffix("+0x0")

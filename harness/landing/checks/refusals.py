"""Sites that the kernel must refuse, and the errno it must return."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from harness.core.errors import UnmappedError
from harness.core.kernel_errno_names import kernel_errno_name
from harness.landing import probe_module
from harness.landing.landing_judgment import Missed
from harness.landing.layout import Layout
from harness.landing.precompiled_sites import OtherBuildError, PrecompiledSite, request_by_section
from harness.landing.probe_run import Kprobes
from harness.landing.site import Site
from harness.landing.sites.function import rule_for_instruction

_WORD = 4


def expect_specs_refused(
    kprobes: Kprobes, *specs: str, wanted: int, module: str = probe_module.MODULE, parameters: Sequence[str] = ()
) -> None:
    """Load a probe module with these parameters and let it try to register a probe on each spec.

    Raises Missed unless the kernel refuses each with this errno (positive).
    """
    for spec, got in zip(
        specs, kprobes.try_to_register_specs(*specs, module=module, parameters=parameters), strict=True
    ):
        if got != wanted:
            raise Missed(f"{spec!r}: {_name(got)} instead of {_name(wanted)}")


def expect_other_build_refused(
    kprobes: Kprobes, made: Sequence[PrecompiledSite], meant: Sequence[Site]
) -> OtherBuildError:
    """Try to put probes on sites that were made for another build of the loaded module; returns the refusal.

    `meant` holds the same sites in the loaded build. Raises Missed, with the witness table, if the probes are
    registered instead of refused.
    """
    # `section` and `place` stay those of the other build. `symbol` and `offset` name where the probe must land.
    stale = [replace(old, symbol=site.symbol, offset=site.offset) for old, site in zip(made, meant, strict=True)]
    try:
        probes = kprobes.on(*stale, relocation=request_by_section)
    except OtherBuildError as refused:
        return refused
    with probes:
        pass
    probes.prove()
    raise Missed("sites of another build were accepted, and the probes landed by coincidence")


def refusal_errno_of_misaligned_bytes(layout: Layout, site: Site) -> int:
    """Return the errno with which a kernel without a check of the alignment refuses a site inside an instruction.

    It decodes the bytes there, and the four before if they are mapped, as if an instruction began there. They are read
    from memory.
    """
    address, before = layout.probe_address(site), _WORD
    try:
        code = layout.guest.memory.read(address - before, before + _WORD)
    except UnmappedError:
        before = 0
        code = layout.guest.memory.read(address, _WORD)
    return rule_for_instruction(layout.decoder)(code, before, (0, 0))[0]


def _name(number: int) -> str:
    return kernel_errno_name(number) if number else "registered"

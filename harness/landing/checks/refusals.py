"""Sites that the kernel must refuse, and the errno it must return."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from dataclasses import replace

from harness.landing import probe_module
from harness.landing.landing import Missed
from harness.landing.probe_run import Kprobes
from harness.landing.section_sites import PrecompiledSite, Refused, by_section
from harness.landing.site import Site


def expect_refusal(
    kprobes: Kprobes, *specs: str, wanted: int, module: str = probe_module.MODULE, parameters: Sequence[str] = ()
) -> None:
    """Try to register a probe on each spec, in one life of a probe module, which gets these parameters.

    Raises Missed unless the kernel refuses each with this errno (positive).
    """
    for spec, got in zip(specs, kprobes.attempt(*specs, module=module, parameters=parameters), strict=True):
        if got != wanted:
            raise Missed(f"{spec!r}: {_name(got)} instead of {_name(wanted)}")


def expect_other_build_refused(kprobes: Kprobes, made: Sequence[PrecompiledSite], meant: Sequence[Site]) -> Refused:
    """Try to put probes on sites that were made for another build of the loaded module; returns the refusal.

    `meant` is where each of them is in the loaded build. Raises Missed, with the witness table, when the probes are
    put somewhere instead.
    """
    # What was carried stays as it is; the loaded build determines where it must land.
    stale = [replace(old, symbol=site.symbol, offset=site.offset) for old, site in zip(made, meant, strict=True)]
    try:
        probes = kprobes.on(*stale, relocation=by_section)
    except Refused as refused:
        return refused
    with probes:
        pass
    probes.prove()
    raise Missed("sites of another build were taken, and happen to land")


def _name(number: int) -> str:
    return errno.errorcode.get(number, str(number)) if number else "registered"

"""In a module with more text than a branch reaches, the far functions are called and probed like any others.

On parisc a call of another module or of the kernel goes through a stub, and a branch of 17 bits must reach that stub
(apply_relocate_add(), arch/parisc/kernel/module.c); 22 bits in a 64-bit kernel. Each section of a module has its stubs
before it. So the functions need sections of their own.
"""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.core import paths
from harness.guest.guest import Guest
from harness.landing.landing_judgment import Missed
from harness.landing.layout import Layout
from harness.landing.mutants import mutant_or_honest
from harness.landing.probe_run import Kprobes
from harness.landing.target import Target
from harness.verdict.cell_verdict_enum import end_as_known_fail

SOURCE = paths.CASES / "large_module"
MODULE, NEAR, FAR = "pinpoint_large", "pinpoint_call_far", "pinpoint_far"
TIMES = 3
# Bytes between the two functions, and the reach of a branch by the bytes of the kernel's words: 17 bits of words, with
# a sign, are 256 KiB; 22 bits are 8 MiB.
SMALL, BEYOND, REACHES = 0x1000, 0x8000, {4: 0x40000, 8: 0x800000}
# arch/parisc/Makefile gives it to 32-bit modules only.
SECTIONS = "-ffunction-sections"
# The function of the kernel that the far function calls, and the bits of the branch.
CALLED, BITS = "hex_to_bin", "17"
# busybox's message for ENOEXEC (moderror(), modutils/modutils.c).
REFUSED = "invalid module format"


def prove_landing(guest: Guest, kprobes_in: Callable[..., Kprobes], file: Path) -> int:
    """Raise Missed unless a probe on the far function lands; return the distance between the two functions."""
    with Target(guest, MODULE, file) as target:
        kprobes = kprobes_in(guest, target)
        with kprobes.on(kprobes.layout.entry_site(target.function_site(FAR))) as probes:
            guest.run_script(f"echo {TIMES} >/sys/module/{MODULE}/parameters/calls").check()
        probes.prove(hits=TIMES)
        layout = Layout(guest, [target])
        near, far = (layout.symbol_start(target.function_site(name)) for name in (NEAR, FAR))
    return far - near


def expect_out_of_range(guest: Guest, file: Path) -> None:
    """Raise Missed unless the kernel refuses the module, because the far function's branch does not reach its stub."""
    path = f"/tmp/{MODULE}.ko"
    guest.put(file, path)
    guest.read_output_since_fence(guest.scaled_deadline(60))
    loaded = guest.run("insmod", path)
    text = guest.read_output_since_fence(guest.scaled_deadline(60))
    # CHECK_RELOC(), arch/parisc/kernel/module.c.
    printed = re.findall(r"module (\S+) relocation of symbol (\S+) is out of range \(0x[0-9a-f]+ in (\d+) bits\)", text)
    if not loaded.rc:
        guest.run("rmmod", MODULE).check()
    # busybox's insmod tries finit_module() and then init_module(), and the kernel logs each refusal.
    if not loaded.rc or REFUSED not in loaded.stderr or set(printed) != {(MODULE, CALLED, BITS)}:
        raise Missed(
            f"documented defect absent; fixed? insmod: {loaded.stderr.strip() or 'loaded'}; printed: {printed}"
        )


@pytest.mark.requires("kprobes", "module_stubs")
@pytest.mark.mutants("within-reach", "one-instruction-off")
def test_far_function(
    guest: Guest, kprobes_in: Callable[..., Kprobes], build_module: Callable[..., Path], mutant: str
) -> None:
    """A probe lands in a function that is farther from the module's first one than a branch reaches.

    The same module with little text is the control. A kernel whose recipe documents the defect loads the control, and
    refuses the large one with ENOEXEC.
    """
    reach = REACHES[guest.architecture.word_bytes]
    prove_landing(guest, kprobes_in, build_module(SOURCE, f"{SECTIONS} -DPINPOINT_PADDING={SMALL}"))
    padding = SMALL if mutant_or_honest(mutant).shrinks_module else reach + BEYOND
    large = build_module(SOURCE, f"{SECTIONS} -DPINPOINT_PADDING={padding}")
    cause = guest.image.recipe.defects.stubs_out_of_reach
    if cause:
        expect_out_of_range(guest, large)
        end_as_known_fail(cause)
    distance = prove_landing(guest, kprobes_in, large)
    if distance <= reach:
        raise Missed(f"{FAR} is {distance:#x} after {NEAR}, within a branch's reach of {reach:#x}")

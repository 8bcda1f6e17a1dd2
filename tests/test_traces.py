"""Stack traces of real crashes are read: function + offset of each frame, and the source line from DWARF."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from kernel_logs import SPARC_FAULT, SPARC_ILLEGAL, SUPERH_OOPS

from harness.core.architecture_table import ARCHITECTURES
from harness.core.elf import Elf
from harness.verdict.complaints import read_complaints
from harness.verdict.traces import Frame, frames, source_of_function_offset

LOGS = Path(__file__).with_name("console_logs")
NATIVE = next(name for name, architecture in ARCHITECTURES.items() if architecture.native)
SOURCE = """\
void called(void);
int first(int x)
{
\tasked();
\t__asm__ volatile(".globl behind\\nbehind: nop");
\treturn x;
}
"""
INNERMOST = {
    "x86_64-debian/bug": ["pinpoint_bug+0x16 [pinpoint_crimes]", "pinpoint_obey.cold+0x1c [pinpoint_crimes]"],
    "x86_64-debian/spin": ["pinpoint_spin+0x21 [pinpoint_crimes]", "pinpoint_obey.cold+0x1c [pinpoint_crimes]"],
    "parisc/null_read": ["pinpoint_obey+0xf4 [pinpoint_crimes]", "pinpoint_write+0x50 [pinpoint_crimes]"],
    "parisc/bug": ["pinpoint_bug+0x14 [pinpoint_crimes]", "pinpoint_obey+0xf4 [pinpoint_crimes]"],
}


@pytest.mark.parametrize("log", INNERMOST)
def test_frames_of_real_traces(log: str) -> None:
    (complaint, *_) = read_complaints((LOGS / f"{log}.console").read_bytes())
    assert [str(frame) for frame in frames(complaint.lines, {})][:2] == INNERMOST[log]


def test_a_doubtful_frame_is_none() -> None:
    lines = (" ? do_fault+0x1a7/0x410", " vfs_write+0xc7/0x3f0", "RIP: 0033:0x47b7a0")
    assert frames(lines, {}) == [Frame("vfs_write", 0xC7)]


def test_lines_of_source(tmp_path: Path) -> None:
    compiler = f"{ARCHITECTURES[NATIVE].cross_prefix}gcc"
    assert shutil.which(compiler), f"no {compiler}"
    (tmp_path / "one.c").write_text(SOURCE)
    subprocess.run([compiler, "-g", "-O2", "-c", "one.c", "-o", "mod.o"], cwd=tmp_path, check=True)
    module = tmp_path / "mod.o"
    elf = Elf.read_cached(module)
    behind = elf.offset_in_section(elf.symbols_named("behind")[0]) - elf.offset_in_section(
        elf.symbols_named("first")[0]
    )
    # A return address is after its call and may be the first instruction of the next line; the call's line is wanted.
    assert source_of_function_offset(module, "first", behind - 1).endswith("one.c:4")
    assert source_of_function_offset(module, "first", behind).endswith("one.c:5")
    (returned,) = frames([f" first+{behind:#x}/0x20 [mod]"], {"mod": module})
    (trapped,) = frames([f"RIP: 0010:first+{behind:#x}/0x20 [mod]"], {"mod": module})
    assert (returned.source[-8:], trapped.source[-8:]) == ("/one.c:4", "/one.c:5")
    assert str(trapped).startswith(f"first+{behind:#x} [mod] at ")


def test_what_is_not_known_has_no_line(tmp_path: Path) -> None:
    (tmp_path / "one.c").write_text(SOURCE)
    compiler = f"{ARCHITECTURES[NATIVE].cross_prefix}gcc"
    subprocess.run([compiler, "-O2", "-c", "one.c", "-o", "mod.o"], cwd=tmp_path, check=True)
    assert source_of_function_offset(tmp_path / "mod.o", "first", 1) == ""
    assert source_of_function_offset(tmp_path / "mod.o", "second", 1) == ""


ARM_OOPS = """\
PC is at pinpoint_null_read+0x10/0x20 [pinpoint_crash]
LR is at pinpoint_trigger+0x40/0x80 [pinpoint_crash]
pc : [<bf000014>]    lr : [<bf000040>]    psr: 60000013
 pinpoint_null_read [pinpoint_crash] from pinpoint_trigger+0x40/0x80 [pinpoint_crash]
 pinpoint_trigger [pinpoint_crash] from param_attr_store+0x90/0xc0
"""


def test_an_arm_trace_has_a_caller_in_each_line() -> None:
    """The pointer first, then what each line was called from; the link register is no frame."""
    assert [str(frame) for frame in frames(ARM_OOPS.splitlines(), {})] == [
        "pinpoint_null_read+0x10 [pinpoint_crash]",
        "pinpoint_trigger+0x40 [pinpoint_crash]",
        "param_attr_store+0x90",
    ]


PPC_OOPS = """\
NIP [c008000000290a4c] pinpoint_null_read+0xc/0x20 [pinpoint_crash]
LR [c008000000290b00] pinpoint_trigger+0x40/0x80 [pinpoint_crash]
Call Trace:
[c000000004b3bc20] [c008000000290900] pinpoint_stale+0x10/0x80 [pinpoint_crash] (unreliable)
[c000000004b3bc40] [c000000000160000] param_attr_store+0x90/0xc0
"""


def test_a_trace_of_powerpc_marks_doubtful_frames_and_its_link_register_is_none() -> None:
    assert [str(frame) for frame in frames(PPC_OOPS.splitlines(), {})] == [
        "pinpoint_null_read+0xc [pinpoint_crash]",
        "param_attr_store+0x90",
    ]


MIPS_OOPS = """\
epc   : ffffffffc0070a4c pinpoint_null_read+0xc/0x20 [pinpoint_crash]
ra    : ffffffffc0070b00 pinpoint_trigger+0x40/0x80 [pinpoint_crash]
Status: 1000cce3	KX SX UX KERNEL EXL IE
Call Trace:
[<ffffffffc0070a4c>] pinpoint_null_read+0xc/0x20 [pinpoint_crash]
[<ffffffff80160000>] param_attr_store+0x90/0xc0
"""


def test_a_mips_trace_begins_at_its_exception_program_counter() -> None:
    assert [str(frame) for frame in frames(MIPS_OOPS.splitlines(), {})] == [
        "pinpoint_null_read+0xc [pinpoint_crash]",
        "param_attr_store+0x90",
    ]


def test_a_trace_of_sparc_begins_at_its_trap_program_counter_and_repeats_no_frame() -> None:
    assert [str(frame) for frame in frames(SPARC_FAULT.splitlines(), {})][:3] == [
        "pinpoint_emulated+0x34 [pinpoint_target]",
        "futex_exit_release+0x60",
        "exit_mm_release+0x4",
    ]
    assert [str(frame) for frame in frames(SPARC_ILLEGAL.splitlines(), {})] == [
        "full_proxy_write+0x44",
        "vfs_write+0x90",
        "ksys_write+0x4c",
        "linux_sparc_syscall+0x34",
    ]


def test_a_trace_of_superh_begins_at_its_program_counter() -> None:
    assert [str(frame) for frame in frames(SUPERH_OOPS.splitlines(), {})][:3] == [
        "pinpoint_null_read+0x4 [pinpoint_crash]",
        "pinpoint_write+0x38 [pinpoint_crash]",
        "full_proxy_write+0x3a",
    ]


LOONGARCH_OOPS = """\
pc ffff80000200c010 ra ffff80000200c0f4 tp 9000000008868000 sp 900000000886bd10
   ra: ffff80000200c0f4 pinpoint_trigger+0x54/0x80 [pinpoint_crash]
  ERA: ffff80000200c010 pinpoint_null_read+0x10/0x20 [pinpoint_crash]
 CRMD: 000000b0 (PLV0 -IE -DA +PG DACF=CC DACM=CC -WE)
Call Trace:
[<ffff80000200c010>] pinpoint_null_read+0x10/0x20 [pinpoint_crash]
[<9000000000260000>] param_attr_store+0x90/0xc0
"""


def test_a_trace_of_loongarch_begins_at_its_exception_return_address() -> None:
    assert [str(frame) for frame in frames(LOONGARCH_OOPS.splitlines(), {})] == [
        "pinpoint_null_read+0x10 [pinpoint_crash]",
        "param_attr_store+0x90",
    ]


S390_OOPS = """\
Krnl PSW : 0704c00180000000 000003ff7fd24012 (pinpoint_null_read+0x12/0x20 [pinpoint_crash])
Call Trace:
 [<000003ff7fd24012>] pinpoint_null_read+0x12/0x20 [pinpoint_crash]
([<000003ff7fd24100>] pinpoint_faults+0x10/0x80 [pinpoint_crash])
 [<0000000000200200>] param_attr_store+0x90/0xc0
Last Breaking-Event-Address:
 [<0000000000300300>] __s390_indirect_jump_r14+0x0/0x10
"""


def test_an_s390_trace_has_doubtful_frames_in_parentheses_and_ends_with_a_branch() -> None:
    assert [str(frame) for frame in frames(S390_OOPS.splitlines(), {})] == [
        "pinpoint_null_read+0x12 [pinpoint_crash]",
        "param_attr_store+0x90",
    ]

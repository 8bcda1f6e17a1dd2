"""Files of 64-bit PowerPC are read: what relocations and the loader change, and where a probe on an entry goes."""

from __future__ import annotations

from pathlib import Path

import pytest
from compressed_objects import read_object

from harness.core.architecture import DecoderKind
from harness.core.architecture_table import ARCHITECTURES
from harness.core.elf import Elf, Symbol
from harness.core.elf_symbols_and_relocations import Relocation, relocated_positions_within_range
from harness.landing.code.entry_shift import entry_shift
from harness.landing.code.instruction import Flow
from harness.landing.code.instructions import decode_function, ftrace_site_offset, once_per_call_boundaries
from harness.landing.code.patch_sites import patch_sites

PPC = ARCHITECTURES["ppc64le"].kprobe_traits
REL24, REL16_HA, ADDR64 = 10, 252, 38

MODULE = """\
        .abiversion 2
        .section .text, "ax", @progbits
        .globl traced, untraced, leaf
        .type traced, @function
traced:
0:      addis 2,12,.TOC.-0b@ha
        addi 2,2,.TOC.-0b@l
        .localentry traced, .-traced
        mflr 0
1:      bl _mcount
        std 0,16(1)
        bl outside
        nop
        bl untraced
        nop
        blr
        .size traced, .-traced
        .type untraced, @function
untraced:
2:      addis 2,12,.TOC.-2b@ha
        addi 2,2,.TOC.-2b@l
        .localentry untraced, .-untraced
3:      li 3,1
        nop
4:      blr
        .size untraced, .-untraced
        .type leaf, @function
leaf:   li 3,2
        blr
        .size leaf, .-leaf
        .section __mcount_loc, "a", @progbits
        .8byte 1b
        .section __ftr_fixup, "a", @progbits
5:      .8byte 1
        .8byte 0
        .8byte 3b-5b
        .8byte 4b-5b
        .8byte 0
        .8byte 0
"""

# The object file that powerpc64le-linux-gnu-as -mpower8 makes of MODULE, compressed.
OBJECT = """\
eNqtU0FLAkEUfjubtqtCFglBBV4KD7LUJTx4kKzwIOXB+7rqSoJm7K5gENShY78jOvYTOvYz+hkSHZpt38tx2GEhfDC8ed/MN997jzcP580Lpm
lApkEBFtHCWnrkGV+1310NcpDlvlkFOK28MOOe8xp50Oah5wcd8kV4vKR7GnQqhDG+j85Ie7WmK17UQVfgawo8pcDXYzCArc5CtyTUFuIUb6PP
hDg/rWJsoN/gKx+jWVDg+wocpjeB5/TcPoxcZwBW+6pugT3uTTgOk2ngD/uueP2bL1OIqSNfiFOcE/LPCPfFurICvifgYtdKCt2yQpfsEHtKee
QFnvY3owA7Et6iByz/bhw4Xe4DL/LXtPPckWMF7iwAq+8EDlhd349QGztnjyY9QgaBZw+Gs+ntSma2iHmmJZzqOZNwecJ3sVc1CTdY5F8xNpFr
SH2ivso/5EmRr6xfxjf/yz9BjCn4RgL/WFH/G1uuM6w/FVN/Q6H/jP4oQb+u0P9gy3wT/4GsH6cd2jvNh7b4R+kYvhnT+9A+kXeQkP+mgj/HpN
oJ/B/0/Eoq
"""


@pytest.fixture
def module(tmp_path: Path) -> Elf:
    return read_object(OBJECT, tmp_path)


def test_a_probe_on_an_entry_goes_to_ftraces_site_or_the_local_entry(module: Elf) -> None:
    shifts = {name: entry_shift(module, module.function(name), PPC) for name in ("traced", "untraced", "leaf")}
    assert shifts == {"traced": 12, "untraced": 8, "leaf": 0}
    assert ftrace_site_offset(module, module.function("traced"), DecoderKind.PPC64) == 12
    assert ftrace_site_offset(module, module.function("untraced"), DecoderKind.PPC64) is None


def test_what_a_call_of_the_local_entry_does_not_run_is_not_counted(module: Elf) -> None:
    code = decode_function(module, module.function("traced"), DecoderKind.PPC64)
    assert [each.flow for each in code[:5]] == [Flow.PLAIN] * 5  # ftrace has a nop for its call
    assert once_per_call_boundaries(module, module.function("traced"), DecoderKind.PPC64) == (0, 8, 12, 16)
    assert once_per_call_boundaries(module, module.function("leaf"), DecoderKind.PPC64) == (0,)


def test_a_feature_section_and_an_ftrace_site_are_patched(module: Elf) -> None:
    start = module.function("untraced").address
    patched = patch_sites(module).patched_offsets(".text", 0, 80)
    assert patched == {*range(12, 16), *range(start + 8, start + 16)}


def test_the_loader_restores_the_toc_after_calls_of_other_files() -> None:
    inside, outside, tracer = (
        Symbol(name, 0, 0, section, "func", "global") for name, section in (("g", ".text"), ("h", ""), ("_mcount", ""))
    )
    entries = [
        Relocation(0, REL16_HA, inside, 0),
        Relocation(4, REL24, tracer, 0),
        Relocation(12, REL24, outside, 0),
        Relocation(24, REL24, inside, 0),
        Relocation(32, ADDR64, inside, 0),
    ]
    changed = {0, 1, *range(4, 8), *range(12, 20), *range(24, 28), *range(32, 40)}
    assert relocated_positions_within_range("EM_PPC64", entries, 0, 48) == changed

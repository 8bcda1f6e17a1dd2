"""Memory is compared with the ELF file's own bytes: the kernel's tables mask what it patches, others are reported."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from harness.core.architecture_table import ARCHITECTURES
from harness.core.elf import Elf
from harness.core.errors import PinpointError
from harness.landing import five_address_witnesses, own_bytes
from harness.landing.code.patch_sites import LINKED, patch_sites
from harness.landing.five_address_witnesses import Window
from harness.landing.own_bytes import OwnBytes
from harness.landing.probe_run import read_until_stable

X86 = ARCHITECTURES["x86_64"].kprobe_traits
START = 0x1000
CODE = bytes.fromhex("0f1f440000 55 4889e5 5d c3 90909090 cc")

# A kernel with one function: an ftrace site, an alternative of three bytes, a lock prefix, two static jumps.
KERNEL = """\
        .text
        .globl _stext, f, _etext
        .type f, @function
_stext:
f:      call __fentry__
alt:    nopl (%rax)
locked: lock incl (%rdi)
short:  jmp far
        nop
long:   .byte 0x0f, 0x1f, 0x44, 0x00, 0x00
far:    ret
        .size f, . - f
__fentry__: ret
_etext:
        .data
__alt_instructions:
        .long alt - ., far - .
        .word 3
        .byte 3, 1
__alt_instructions_end:
__smp_locks:
        .long locked - .
        .long 0
__smp_locks_end:
        .balign 8
__start___jump_table:
        .long short - ., far - .
        .quad 0
        .long long - ., far - .
        .quad 0
__stop___jump_table:
__start_mcount_loc:
        .quad f
__stop_mcount_loc:
"""

MODULE = """\
        .text
        .type f, @function
        .globl f
f:      call __fentry__
        push %rbp
        call elsewhere
        jmp __x86_return_thunk
        .size f, . - f
        .section __mcount_loc,"a"
        .quad f
        .section .return_sites,"a"
        .long f + 11 - .
"""


def assembled(tmp_path: Path, name: str, text: str) -> Path:
    source, object_file = tmp_path / f"{name}.S", tmp_path / f"{name}.o"
    source.write_text(text)
    subprocess.run(["x86_64-linux-gnu-gcc", "-c", source, "-o", object_file], check=True)
    return object_file


@pytest.fixture
def kernel(tmp_path: Path) -> Elf:
    linked = tmp_path / "vmlinux"
    object_file = assembled(tmp_path, "kernel", KERNEL)
    subprocess.run(["x86_64-linux-gnu-ld", "-e", "f", "-Ttext=0x401000", object_file, "-o", linked], check=True)
    return Elf.read(linked)


@pytest.fixture
def module(tmp_path: Path) -> Elf:
    return Elf.read(assembled(tmp_path, "module", MODULE))


def own(masked: frozenset[int] = frozenset()) -> OwnBytes:
    return OwnBytes(START, CODE, masked)


def patched(place: int, patch: bytes, code: bytes = CODE) -> bytes:
    return code[:place] + patch + code[place + len(patch) :]


def test_a_kernels_own_tables_name_what_it_patches(kernel: Elf) -> None:
    f = kernel.function("f")
    masked = patch_sites(kernel).patched_offsets(LINKED, f.address, f.size)
    ftrace, alternative, lock, short, long = range(5), range(5, 8), [8], range(11, 13), range(14, 19)
    assert masked == {*ftrace, *alternative, *lock, *short, *long}
    assert patch_sites(kernel).known


def test_constants_that_boot_alone_knows_are_masked(tmp_path: Path, kernel: Elf) -> None:
    table = "__start_runtime_shift_x: .long far - .\n__stop_runtime_shift_x:\n"
    linked = tmp_path / "newer"
    object_file = assembled(tmp_path, "newer", KERNEL.replace(".data\n", f".data\n{table}"))
    subprocess.run(["x86_64-linux-gnu-ld", "-e", "f", "-Ttext=0x401000", object_file, "-o", linked], check=True)
    older, newer = (
        patch_sites(elf).patched_offsets(LINKED, elf.function("f").address, 20) for elf in (kernel, Elf.read(linked))
    )
    assert newer - older == {19}


# Rows of alternatives, from the feature field on: up to 5.12, up to 6.2, since 6.3. Each patches four bytes.
ROWS = pytest.mark.parametrize("row", [".word 3; .byte 4, 1, 1", ".word 3; .byte 4, 1", ".word 3, 0; .byte 4, 1"])


@ROWS
@pytest.mark.parametrize("rows", [1, 12, 91])
def test_alternatives_are_of_the_kernels_own_form(tmp_path: Path, row: str, rows: int) -> None:
    table = "".join(f".long s{each} - ., r - .; {row}\n" for each in range(rows))
    code = "".join(f"s{each}: push %rax; .byte 0x0f, 0x1f, 0x40, 0x00; pop %rax\n" for each in range(rows))
    text = f'.text\n.globl f\n.type f, @function\nf:\n{code}r: ret\n.size f, . - f\n.section .altinstructions,"a"\n'
    wanted = {6 * each + byte for each in range(rows) for byte in range(4)}
    for begin, end in (("", ""), ("__alt_instructions:\n", "__alt_instructions_end:\n")):
        elf = Elf.read(object_file := assembled(tmp_path, "alternatives", f"{text}{begin}{table}{end}"))
        if begin:
            linked = tmp_path / "linked"
            subprocess.run(["x86_64-linux-gnu-ld", "-e", "f", object_file, "-o", linked], check=True)
            elf = Elf.read(linked)
        f = elf.function("f")
        assert (
            patch_sites(elf).patched_offsets(LINKED if begin else ".text", f.address if begin else 0, f.size) == wanted
        )


def test_what_is_asked_for_may_begin_inside_a_patch(kernel: Elf) -> None:
    start = kernel.function("f").address
    assert patch_sites(kernel).patched_offsets(LINKED, start + 3, 3) == {0, 1, 2}
    assert patch_sites(kernel).patched_offsets(LINKED, start - 8, 8) == set()


def test_a_module_is_masked_by_relocations_and_by_its_tables(module: Elf) -> None:
    loaded = own_bytes.module_own_bytes(module, ".text", START, START, 64)
    assert len(loaded.code) == 16, "it ends with the section"
    assert loaded.masked_offsets == {*range(5), *range(7, 11), *range(11, 16)}
    assert loaded.comparable_count == 2


# Up to 5.17 a row of this table ends with two bytes for clobbered registers.
@pytest.mark.parametrize("clobbers", ["", ".short 3"])
def test_the_last_row_of_a_module_may_lack_its_padding(tmp_path: Path, clobbers: str) -> None:
    rows = "".join(f".balign 8; .quad f + {place}; .byte 1, 4; {clobbers}\n" for place in (1, 7))
    elf = Elf.read(assembled(tmp_path, "paravirt", f'{MODULE}.section .parainstructions,"a"\n{rows}'))
    size = elf.sections_by_name[".parainstructions"].size
    assert size == 16 + 10 + 2 * bool(clobbers)
    assert patch_sites(elf, ftrace=False).patched_offsets(".text", 0, 11) == {*range(1, 5), *range(7, 11)}


def test_a_last_row_without_all_of_its_fields_is_damaged(tmp_path: Path) -> None:
    elf = Elf.read(assembled(tmp_path, "paravirt", f'{MODULE}.section .parainstructions,"a"\n.quad f\n.byte 1\n'))
    with pytest.raises(PinpointError, match=r"\.parainstructions has no 10 bytes at 0x0"):
        patch_sites(elf)


def test_a_kernel_without_tables_is_not_compared(tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    subprocess.run(["x86_64-linux-gnu-ld", "-e", "f", assembled(tmp_path, "m", "f: .globl f\nret\n"), "-o", bare])
    elf = Elf.read(bare)
    assert own_bytes.kernel_own_bytes(elf, 0, elf.symbols_named("f")[0].address, 16).comparable_count == 0


def test_a_slide_is_taken_off(kernel: Elf) -> None:
    start = kernel.function("f").address
    seen = own_bytes.kernel_own_bytes(kernel, 0x200000, start + 0x200000, 8)
    assert seen.code == kernel.function_bytes(kernel.function("f"))[:8]


def test_absolute_addresses_grow_by_the_slide_and_by_nothing_else() -> None:
    code = bytes.fromhex("48c7c0") + (0x81000000).to_bytes(4, "little") + b"\xc3"
    kept = OwnBytes(START, code, frozenset(), slide=0x0B600000)
    moved = bytes.fromhex("48c7c0") + (0x8C600000).to_bytes(4, "little") + b"\xc3"
    other = bytes.fromhex("48c7c0") + (0x8C700000).to_bytes(4, "little") + b"\xc3"
    assert kept.differing_offsets(moved) == []
    assert kept.differing_offsets(other)
    assert OwnBytes(START, code, frozenset()).differing_offsets(moved)


def test_memory_that_equals_the_elf_reports_how_much_was_compared() -> None:
    window = Window(START, CODE, patched(5, b"\xcc"), CODE)
    seen = five_address_witnesses.qemu_memory_statement(window, START + 5, X86, own(frozenset(range(5))))
    assert (seen.address, seen.contradicts) == (START + 5, False)
    assert seen.detail == "55 became cc; 11 bytes around are the ELF's, 5 masked"


@pytest.mark.parametrize("when", ["before", "with", "after"])
def test_a_byte_that_is_not_the_elfs_contradicts_and_both_are_shown(when: str) -> None:
    states = {"before": CODE, "with": patched(5, b"\xcc"), "after": CODE}
    states[when] = patched(8, b"\x90", states[when])
    seen = five_address_witnesses.qemu_memory_statement(Window(START, *states.values()), START + 5, X86, own())
    assert seen.contradicts
    assert f"at 0x1008 the ELF has e55dc390909090cc, memory 905dc390909090cc {when} the probe" in seen.detail


def test_masked_bytes_may_be_anything() -> None:
    before = patched(0, bytes.fromhex("e811223344"))
    seen = five_address_witnesses.qemu_memory_statement(
        Window(START, before, patched(5, b"\xcc", before), before), START + 5, X86, own(frozenset(range(5)))
    )
    assert not seen.contradicts


def test_too_little_to_compare_makes_no_statement() -> None:
    few = frozenset(range(len(CODE) - own_bytes.FEWEST + 1))
    seen = five_address_witnesses.qemu_memory_statement(
        Window(START, CODE, patched(5, b"\xcc"), CODE), START + 5, X86, own(few)
    )
    assert seen.address is None
    assert not seen.contradicts
    assert "only 3 bytes of the ELF" in seen.detail


def test_memory_that_is_being_patched_is_read_again() -> None:
    # text_poke_bp() writes int3, then the jump's tail, then its first byte.
    states = iter([b"\xcc\0\0\0\0", b"\xcc\1\2\3\4", b"\xe9\1\2\3\4", b"\xe9\1\2\3\4", b"never read"])
    assert read_until_stable(lambda: [next(states)]) == [b"\xe9\1\2\3\4"]


def test_the_breakpoint_accounts_for_its_own_byte_only() -> None:
    seen = five_address_witnesses.qemu_memory_statement(
        Window(START, CODE, patched(5, b"\xcc\1\2\3\4"), CODE), START + 5, X86, own()
    )
    assert seen.contradicts


def test_a_breakpoint_that_the_kernel_does_not_list_contradicts() -> None:
    window = Window(START, CODE, patched(8, b"\xcc", patched(5, b"\xcc")), CODE)
    listed = {START + 5, START + 8}
    assert not five_address_witnesses.qemu_memory_statement(window, START + 5, X86, own(), (), listed).contradicts
    seen = five_address_witnesses.qemu_memory_statement(window, START + 5, X86, own(), (), {START + 5})
    assert seen.contradicts
    assert "at 0x1008 the ELF has e5" in seen.detail


def test_a_snapshot_of_another_life_shows_the_probe_elsewhere() -> None:
    stale = patched(6, b"\xcc")
    assert (
        five_address_witnesses.qemu_memory_statement(Window(START, CODE, stale, CODE), START + 5, X86, own()).address
        == START + 6
    )


def test_a_probe_that_stood_there_before_need_not_change_memory() -> None:
    probed = patched(5, b"\xcc")
    window = Window(START, probed, probed, probed)
    assert five_address_witnesses.qemu_memory_statement(window, START + 5, X86, own(), [START + 5]).address == START + 5
    assert five_address_witnesses.qemu_memory_statement(window, START + 5, X86, own()).contradicts

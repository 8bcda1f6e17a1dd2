"""Boundaries and straight lines of functions assembled here are right, compared with objdump if possible."""

from __future__ import annotations

import re
import shutil
import subprocess
import tracemalloc
from pathlib import Path

import pytest

from harness.core.architecture_table import ARCHITECTURES
from harness.core.elf import Elf
from harness.core.errors import PinpointError
from harness.landing.code import decode_capstone, decode_parisc
from harness.landing.code.instruction import Flow
from harness.landing.code.instructions import (
    addresses_of_words_read,
    ftrace_site_offset,
    instruction_at_function_start,
    instruction_boundaries,
    offsets_inside_instructions,
    once_per_call_boundaries,
    size_before_function,
)


def _tool(architecture: str, tool: str) -> str:
    name = f"{ARCHITECTURES[architecture].cross_prefix}{tool}"
    if shutil.which(name) is None:
        pytest.skip(f"{name} is not installed")
    return name


def _run(*argv: str | Path) -> str:
    return subprocess.run([str(word) for word in argv], check=True, capture_output=True, text=True).stdout


class Function:
    """One function of an object file, read as landings read it."""

    def __init__(self, elf: Elf, architecture: str, name: str = "it") -> None:
        where = (elf, elf.function(name), ARCHITECTURES[architecture].kprobe_traits.decoder)
        self.boundaries = instruction_boundaries(*where)
        self.straight = once_per_call_boundaries(*where)
        self.inside = offsets_inside_instructions(*where)
        self.ftrace_site = ftrace_site_offset(*where)


def _assembled(directory: Path, architecture: str, body: str, *, sized: bool = True) -> Function:
    """Assemble a body into the function `it`; `%` marks types on every architecture, unlike `@`."""
    size = ".size it, .-it" if sized else ""
    source, made = directory / "it.s", directory / "it.o"
    source.write_text(f".text\n.globl it\n.type it, %function\nit:\n{body}\n{size}\n")
    _run(_tool(architecture, "gcc"), "-c", "-o", made, source)
    return Function(Elf.read(made), architecture)


def _compiled(directory: Path, architecture: str, text: str, *flags: str) -> Path:
    source, made = directory / "it.c", directory / f"it-{architecture}.o"
    source.write_text(text)
    common = ["-O2", "-fno-pic", "-fno-pie", "-fno-asynchronous-unwind-tables", "-fcf-protection=none"]
    usable = common if architecture in ("x86_64", "i386") else common[:-1]
    own = ARCHITECTURES[architecture].program_flags
    _run(_tool(architecture, "gcc"), "-c", *usable, *own, *flags, "-o", made, source)
    return made


_LINE = re.compile(r"^\s+([0-9a-f]+):\t([0-9a-f ]+?)[ ]*\t(\S+)[ \t]*(.*)$", re.M)
_BRANCHY = """
unsigned work(unsigned);
unsigned it(unsigned x, unsigned *p)
{
    unsigned sum = x ^ 0x1234;
    for (unsigned i = 0; i < x; i++) {
        if (p[i] & 1)
            sum += work(p[i]);
        else if (p[i] > sum)
            sum ^= p[i] << 3;
    }
    while (sum > 100 && *p++)
        sum -= *p;
    return sum;
}
"""


def _objdump(path: Path, architecture: str) -> list[tuple[int, str, str]]:
    """Return offset, mnemonic and operands of each instruction of the only function."""
    listing = _run(_tool(architecture, "objdump"), "-dz", "--insn-width=16", path)
    return [(int(offset, 16), mnemonic, rest) for offset, _, mnemonic, rest in _LINE.findall(listing)]


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_boundaries_are_objdumps(tmp_path: Path, architecture: str) -> None:
    made = _compiled(tmp_path, architecture, _BRANCHY)
    function = Function(Elf.read(made), architecture)
    # s390's assembler fills the section after the function with nops.
    size = Elf.read(made).function("it").size
    assert function.boundaries == tuple(offset for offset, _, _ in _objdump(made, architecture) if offset < size)
    assert len(function.boundaries) > 15
    assert not set(function.inside) & set(function.boundaries)


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_line_ends_before_the_first_branch_objdump_shows(tmp_path: Path, architecture: str) -> None:
    made = _compiled(tmp_path, architecture, _BRANCHY)
    function = Function(Elf.read(made), architecture)
    # RISC-V's objdump names local labels, and constants in comments, as SPARC's. LoongArch's has the labels of branches
    # in comments.
    before = "" if architecture == "loongarch64" else "(?<![#!] )"
    to_label = re.compile(rf"{before}\b[0-9a-f]+ <(?:\.?it\+|\.L|L0)")
    # SuperH's loads of constants have labels, too.
    found = [each for each in _objdump(made, architecture) if not each[1].startswith("mov")]
    first = next(offset for offset, _, rest in found if to_label.search(rest))
    assert function.straight
    assert function.straight[0] == 0
    assert max(function.straight) < first


def test_parisc_branch_targets_are_objdumps(tmp_path: Path) -> None:
    """The branches have displacements of every length, forwards and backwards."""
    body = """
    cmpb,=,n %r26,%r25,it
    cmpib,<> 3,%r26,far
    addb,< %r26,%r25,it
    bb,<,n %r26,5,near
    movb,= %r1,%r2,near
near: b it
    nop
    b,l far,%rp
    nop
    .fill 700,4,0x08000240
far: b,n near
    nop
    bv %r0(%rp)
    nop
"""
    source, made = tmp_path / "it.s", tmp_path / "it.o"
    source.write_text(f".text\n.type it, %function\nit:\n{body}\n.size it, .-it\n")
    _run(_tool("parisc", "gcc"), "-c", "-o", made, source)
    elf = Elf.read(made)
    seen = {each.offset: each.target for each in decode_parisc.decode(elf.function_bytes(elf.function("it")))}
    wanted = {
        offset: int(found[1], 16)
        for offset, _, rest in _objdump(made, "parisc")
        if (found := re.search(r"\b([0-9a-f]+) <", rest))
    }
    assert len(wanted) == 8
    assert {offset: seen[offset] for offset in wanted} == wanted


X86 = """
    push %rbx
    mov %edi,%ebx
    movabs $0x1122334455667788,%rax
    cmp $3,%ebx
"""


# What capstone 5 does not know. objdump 2.40 does not know the last three either: RMPREAD, LKGS, UDB.
_MISSING = ("0f01e8", "0f01fe", "0f01ff", "660f01cc", "f20f01fe", "f20f01ff", "f30f01fe", "f30f01ff", "c4e27849c0")
_IN_NO_OBJDUMP = ("f20f01fd", "f20f00f7", "d6")


@pytest.mark.parametrize("code", [*_MISSING, *_IN_NO_OBJDUMP])
def test_x86_instructions_missing_in_capstone(tmp_path: Path, code: str) -> None:
    """Each is one instruction, alone and between others; nothing is known at a part of one."""
    whole = bytes.fromhex(code)
    around = b"\x55" + whole + b"\xc3"
    assert [each.offset for each in decode_capstone.decode_x86_64(around)] == [0, 1, 1 + len(whole)]
    assert decode_capstone.instruction_starts_x86_64(around) == [0, 1, 1 + len(whole)]
    flow = Flow.ENDS if code == "d6" else Flow.PLAIN
    assert [(each.size, each.flow) for each in decode_capstone.decode_x86_64(whole)] == [(len(whole), flow)]
    assert not whole[:-1] or decode_capstone.decode_x86_64(whole[:-1])[0].flow is Flow.UNKNOWN
    if code in _MISSING:
        words = ",".join(f"0x{byte:02x}" for byte in around)
        function = _assembled(tmp_path, "x86_64", f".byte {words}")
        assert [offset for offset, *_ in _objdump(tmp_path / "it.o", "x86_64")] == list(function.boundaries)


def test_x86_bytes_of_no_instruction_are_unknown_one_by_one() -> None:
    assert [each.flow for each in decode_capstone.decode_x86_64(bytes.fromhex("0f0a"))] == [Flow.UNKNOWN] * 2
    assert decode_capstone.instruction_starts_x86_32(bytes.fromhex("0f0a90")) == [0, 1, 2]


def test_x86_variable_width(tmp_path: Path) -> None:
    function = _assembled(tmp_path, "x86_64", f"{X86} je 1f\n xor %eax,%eax\n1: pop %rbx\n ret")
    assert function.boundaries == (0, 1, 3, 13, 16, 18, 20, 21)
    assert function.straight == (0, 1, 3, 13)
    # No offset inside the branch: what the kernel may patch it to is unknown.
    assert function.inside == (2, *range(4, 13), 14, 15, 19)
    assert function.ftrace_site is None


@pytest.mark.parametrize("leaves", ["call work", "ret", "jmp *%rax", "ud2", "int3", "nopl 0(%rax,%rax,1)", "jmp work"])
def test_x86_line_ends(tmp_path: Path, leaves: str) -> None:
    function = _assembled(tmp_path, "x86_64", f"{X86} {leaves}\n mov %ebx,%eax\n pop %rbx\n ret")
    expected = () if leaves == "jmp *%rax" else (0, 1, 3, 13)
    assert function.straight == expected


def test_x86_unaimed_branch_is_no_branch_into_the_line(tmp_path: Path) -> None:
    """Before relocation `jmp work` has displacement -4 or 0, which is itself or the next instruction."""
    function = _assembled(tmp_path, "x86_64", "mov %edi,%eax\n xor %eax,%eax\n jmp work")
    assert function.straight == (0, 2)


def test_branch_back_ends_the_line_at_its_target(tmp_path: Path) -> None:
    function = _assembled(tmp_path, "x86_64", "push %rbx\n1: mov %edi,%ebx\n dec %ebx\n jne 1b\n pop %rbx\n ret")
    assert function.straight == (0,)


def test_branch_back_from_a_cold_half_ends_the_line(tmp_path: Path) -> None:
    body = """push %rbx
back: mov %edi,%ebx
    dec %ebx
    jne it.cold
    pop %rbx
    ret
    .size it, .-it
    .section .text.unlikely,"ax"
    .type it.cold, %function
it.cold: inc %ebx
    jmp back
    .size it.cold, .-it.cold
    .text"""
    assert _assembled(tmp_path, "x86_64", body, sized=False).straight == (0,)


@pytest.mark.parametrize(("pad", "at"), [("", 0), ("endbr64", 4)])
def test_x86_call_of_fentry_is_in_the_line(tmp_path: Path, pad: str, at: int) -> None:
    function = _assembled(tmp_path, "x86_64", f"{pad}\n call __fentry__\n mov %edi,%eax\n ret")
    assert function.ftrace_site == at
    assert function.straight == tuple(sorted({0, at, at + 5}))


def test_x86_call_of_fentry_in_a_linked_kernel(tmp_path: Path) -> None:
    source, made = tmp_path / "it.s", tmp_path / "it"
    source.write_text(
        ".text\n.globl __fentry__,it,other\n"
        ".type __fentry__,%function\n__fentry__: ret\n.size __fentry__,.-__fentry__\n"
        ".type it,%function\nit: call __fentry__\n mov %edi,%eax\n ret\n.size it,.-it\n"
        ".type other,%function\nother: call it\n mov %edi,%eax\n ret\n.size other,.-other\n"
    )
    _run(_tool("x86_64", "gcc"), "-nostdlib", "-static", "-Wl,-e,it", "-Wl,--build-id=none", "-o", made, source)
    elf = Elf.read(made)
    assert Function(elf, "x86_64").straight == (0, 5)
    assert Function(elf, "x86_64", "other").straight == ()


def test_x86_32_call_back_of_fentry(tmp_path: Path) -> None:
    """A branch back has a distance modulo 2^32 in 32-bit code; `inc %eax` is one byte there, and a prefix elsewhere."""
    source, made = tmp_path / "it.s", tmp_path / "it"
    source.write_text(
        ".text\n.globl __fentry__,it\n"
        ".type __fentry__,%function\n__fentry__: ret\n.size __fentry__,.-__fentry__\n"
        ".type it,%function\nit: call __fentry__\n inc %eax\n1: dec %eax\n jne 1b\n ret\n.size it,.-it\n"
    )
    _run(_tool("i386", "gcc"), "-nostdlib", "-static", "-Wl,-e,it", "-Wl,--build-id=none", "-o", made, source)
    function = Function(Elf.read(made), "i386")
    assert function.ftrace_site == 0
    assert function.boundaries == (0, 5, 6, 7, 9)
    assert function.straight == (0, 5)


@pytest.mark.parametrize("architecture", ["x86_64", "i386"])
def test_compilers_own_fentry(tmp_path: Path, architecture: str) -> None:
    made = _compiled(tmp_path, architecture, _BRANCHY, "-pg", "-mfentry")
    assert Function(Elf.read(made), architecture).straight[:2] == (0, 5)


def test_the_first_instruction_after_a_landing_pad(tmp_path: Path) -> None:
    """A function that is only a BUG() has its trap after the pad."""
    _assembled(tmp_path, "x86_64", "endbr64\nud2")
    elf, decoder = Elf.read(tmp_path / "it.o"), ARCHITECTURES["x86_64"].kprobe_traits.decoder
    found = [instruction_at_function_start(elf, elf.function("it"), decoder, landing_pad=pad) for pad in (0, 4, 6)]
    assert [each and each.flow for each in found] == [Flow.PLAIN, Flow.ENDS, None]


def test_unknown_bytes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PinpointError, match=r"no instruction is known at it\+0x1"):
        _assembled(tmp_path, "x86_64", "nop\n .byte 0x06\n ret")


def test_padding_of_a_recovered_size_is_no_boundary(tmp_path: Path) -> None:
    function = _assembled(tmp_path, "x86_64", "mov %edi,%eax\n ret\n int3\n int3\n nopw 0(%rax)", sized=False)
    assert function.boundaries == (0, 2)


@pytest.mark.parametrize(
    ("last", "boundaries"),
    [
        ("ret", (0, 2)),
        # The last bytes of the instruction, ud1 and a mov of a constant, have the value of the padding.
        (".byte 0x0f, 0xb9, 0xcc", (0, 2)),
        ("mov $0xcccccccc, %eax", (0, 2)),
    ],
)
@pytest.mark.parametrize("padding", [0, 1, 15, 16, 17, 300])
def test_long_padding_is_left_out_as_short_padding_is(
    last: str, boundaries: tuple[int, ...], padding: int, tmp_path: Path
) -> None:
    body = f"mov %edi,%eax\n {last}\n .fill {padding}, 1, 0xcc"
    assert _assembled(tmp_path, "x86_64", body, sized=False).boundaries == boundaries


def test_a_megabyte_of_padding_is_not_decoded(tmp_path: Path) -> None:
    _assembled(tmp_path, "x86_64", "ret\n .fill 1000000, 1, 0xcc", sized=False)
    elf = Elf.read(tmp_path / "it.o")
    tracemalloc.start()
    try:
        found = instruction_boundaries(elf, elf.function("it"), ARCHITECTURES["x86_64"].kprobe_traits.decoder)
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()
    assert found == (0,)


def test_arm64_patchable_entry(tmp_path: Path) -> None:
    """The second nop is ftrace's and refused, as seen on a stock Debian kernel."""
    made = _compiled(tmp_path, "arm64", _BRANCHY, "-fpatchable-function-entry=2")
    function = Function(Elf.read(made), "arm64")
    assert function.ftrace_site == 4
    assert function.straight[:3] == (0, 8, 12)
    assert function.boundaries[:4] == (0, 4, 8, 12)


@pytest.mark.parametrize(("before", "size"), [("", 0), ("nop", 0), ("nop; nop", 8), ("nop; ret", 0)])
def test_arm64_nops_before_a_function_are_those_of_its_patchable_entry(tmp_path: Path, before: str, size: int) -> None:
    source, made = tmp_path / "it.s", tmp_path / "it.o"
    source.write_text(f".text\n{before}\n.type it, %function\nit: nop; nop; ret\n.size it, .-it\n")
    _run(_tool("arm64", "gcc"), "-c", "-o", made, source)
    elf = Elf.read(made)
    assert size_before_function(elf, elf.function("it"), ARCHITECTURES["arm64"].kprobe_traits.decoder) == size


def test_arm64_landing_pad_before_the_patchable_entry(tmp_path: Path) -> None:
    function = _assembled(tmp_path, "arm64", "hint #34\n nop\n nop\n add x0,x0,#1\n ret")
    assert function.ftrace_site == 8
    assert 8 not in function.straight
    assert 12 in function.straight


@pytest.mark.parametrize(
    "leaves",
    [
        "b work",
        "bl work",
        "cbz x0,1f",
        "tbnz x0,#3,1f",
        "b.eq 1f",
        "ldxr x1,[x0]",
        "ldar x1,[x0]",
        "brk #1",
        "nop",
        "ret",
    ],
)
def test_arm64_line_ends(tmp_path: Path, leaves: str) -> None:
    body = f"paciasp\n eor w0,w0,w0,lsl #13\n {leaves}\n add x0,x0,#1\n1: autiasp\n ret"
    assert _assembled(tmp_path, "arm64", body).straight == (0, 4)


def test_arm64_refused_instructions_are_passed_over(tmp_path: Path) -> None:
    body = "paciasp\n mrs x1,daif\n msr daifset,#2\n mrs x2,sp_el0\n autiasp\n add x0,x0,#1\n ret"
    assert _assembled(tmp_path, "arm64", body).straight == (0, 12, 20)


def test_arm64_branch_back_by_a_bit_test(tmp_path: Path) -> None:
    """tbz names a bit before its target; the target is used."""
    body = "mov x1,#0\n add x1,x1,#1\n1: add x0,x0,#1\n tbz x0,#1,1b\n ret"
    assert _assembled(tmp_path, "arm64", body).straight == (0, 4)


def test_fixed_width_inside_is_every_misaligned_offset(tmp_path: Path) -> None:
    function = _assembled(tmp_path, "arm64", "add x0,x0,#1\n ret")
    assert function.inside == (1, 2, 3)


def test_arm64_computed_jump_leaves_no_line(tmp_path: Path) -> None:
    assert _assembled(tmp_path, "arm64", "add x0,x0,#1\n br x0").straight == ()


@pytest.mark.parametrize(
    "leaves", ["b,l work,%rp", "bv,n %r0(%rp)", "cmpb,= %r26,%r25,1f", "break 3,5", "be 0(%sr4,%r1)"]
)
def test_parisc_line_ends(tmp_path: Path, leaves: str) -> None:
    body = f"copy %r26,%r28\n stw %rp,-20(%sp)\n {leaves}\n ldo 1(%r28),%r28\n1: bv %r0(%rp)\n nop"
    assert _assembled(tmp_path, "parisc", body).straight == (0, 4)


@pytest.mark.parametrize(
    "skips", ["cmpclr,= %r26,%r25,%r1", "addi,<> 1,%r26,%r26", "extrw,u,= %r26,31,1,%r1", "or,tr %r1,%r2,%r3"]
)
def test_parisc_nullified_instruction_and_nullifier_are_left_out(tmp_path: Path, skips: str) -> None:
    body = f"copy %r26,%r28\n {skips}\n ldo 1(%r28),%r28\n ldo 2(%r28),%r28\n bv %r0(%rp)\n nop"
    assert _assembled(tmp_path, "parisc", body).straight == (0, 12)


def test_parisc_return_is_no_computed_jump(tmp_path: Path) -> None:
    assert _assembled(tmp_path, "parisc", "copy %r26,%r28\n bv %r0(%r1)\n nop").straight == ()
    assert _assembled(tmp_path, "parisc", "copy %r26,%r28\n blr %r1,%r0\n nop").straight == ()


def test_function_without_bytes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PinpointError, match=r"no instruction is known at it\+0x0"):
        _assembled(tmp_path, "x86_64", "")


def _words_read_by_start(tmp_path: Path, architecture: str, body: str, data: str) -> set[int]:
    """The addresses of words that `_start` reads, from the address of `words`, the data."""
    source, made = tmp_path / "loads.S", tmp_path / "loads"
    source.write_text(
        f".globl _start\n.type _start, %function\n_start:\n{body}\n.size _start, . - _start\n"
        f".data\n.globl words\nwords: {data}\n"
    )
    _run(_tool(architecture, "gcc"), "-nostdlib", "-static", "-o", made, source)
    elf = Elf.read(made)
    decoder = ARCHITECTURES[architecture].kprobe_traits.decoder
    words = elf.symbols_named("words")[0].address
    return {address - words for address in addresses_of_words_read(elf, elf.function("_start"), decoder)}


def test_constant_loads(tmp_path: Path) -> None:
    """Only the word that ADRP and ADD lead to is one: what is read through a loaded pointer has no constant address."""
    body = (
        "adrp x1, words\nadd x1, x1, :lo12:words\nmov x2, x1\nldr w3, [x2]\nldr x0, [x2, #8]\nldr x4, [x0, #16]\n"
        "mov x2, #0\nldr x5, [x2, #24]\nret"
    )
    assert _words_read_by_start(tmp_path, "arm64", body, ".quad 0, 0, 0, 0") == {8}


def test_constant_loads_of_32_bit_x86(tmp_path: Path) -> None:
    """Only MOV of a 32-bit word from a constant address is one, in both of its forms."""
    body = (
        "movl words+4, %ecx\nmovl words, %eax\nmovb words+8, %dl\nmovl words(%eax), %edx\nmovl %fs:0, %edx\n"
        "movl %eax, words+12\nret"
    )
    assert _words_read_by_start(tmp_path, "i386", body, ".long 0, 0, 0, 0") == {0, 4}


@pytest.mark.parametrize(
    ("code", "is_padding"),
    [
        ("8db42600000000", True),  # lea 0x0(%esi,%eiz,1),%esi
        ("8d742600", True),
        ("8db600000000", True),  # lea 0x0(%esi),%esi
        ("8d7600", True),
        ("8d7604", False),
        ("8d7e00", False),  # lea 0x0(%esi),%edi
        ("8d3430", False),  # lea (%eax,%esi,1),%esi
    ],
)
def test_lea_of_a_register_to_itself_is_padding_in_32_bit_code(code: str, is_padding: bool) -> None:
    (found,) = decode_capstone.decode_x86_32(bytes.fromhex(code))
    assert (found.flow, found.is_padding) == (Flow.PLAIN, is_padding)

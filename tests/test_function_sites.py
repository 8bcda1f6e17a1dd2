"""Where a probe may be in a function, from files alone: the rules for instructions, the reserved code, the proof."""

from __future__ import annotations

import errno
import json
import subprocess
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from harness import cli
from harness.core.architecture_table import ARCHITECTURES
from harness.core.errors import UsageError
from harness.core.events import ProgressStep
from harness.core.kernel_errno_names import kernel_errno_name
from harness.images.image import Image
from harness.images.vm_recipe import Traits
from harness.landing.probe_module import SiteReport
from harness.landing.sites import reserved, rules_arm64, rules_x86
from harness.landing.sites.all_functions import answer_text, predictions_of_function, tally_functions
from harness.landing.sites.function import Answer, FunctionSites
from harness.matrix.commands.prove_sites import Proof, _compare
from harness.report import sites_command_output

OLD, NEW = (6, 1), (6, 12)


@pytest.mark.parametrize(
    ("code", "version", "number"),
    [
        ("48 89 e7", OLD, 0),  # mov %rsp,%rdi
        ("ff d0", OLD, 0),  # call *%rax
        ("ff e0", OLD, 0),  # jmp *%rax
        ("ff 10", OLD, errno.EOPNOTSUPP),  # call *(%rax)
        ("ff 20", OLD, errno.EOPNOTSUPP),  # jmp *(%rax)
        ("ff 30", OLD, 0),  # push (%rax)
        ("48 cf", OLD, errno.EOPNOTSUPP),  # iretq
        ("0f 01 c1", OLD, errno.EOPNOTSUPP),  # vmcall
        ("0f 01 d0", OLD, 0),  # xgetbv
        ("cc", OLD, errno.EINVAL),
        ("cc", NEW, errno.EILSEQ),
        ("0f 0b", OLD, 0),  # ud2
        ("0f 0b", NEW, errno.EILSEQ),
    ],
)
def test_what_x86_refuses(code: str, version: tuple[int, int], number: int) -> None:
    found, why = rules_x86.refusal_errno_and_reason(bytes.fromhex(code), 0, version)
    assert found == number
    assert bool(why) == bool(number)


@pytest.mark.parametrize(
    ("words", "refused"),
    [
        ([0xD503201F], False),  # nop
        ([0xD503233F], False),  # paciasp
        ([0xD50323BF], True),  # autiasp
        ([0xD503203F], True),  # yield
        ([0xD53B4220], True),  # mrs x0, daif
        ([0xD53BD040], False),  # mrs x0, tpidr_el0
        ([0xD5184100], True),  # msr sp_el0, x0
        ([0xD4210000], True),  # brk
        ([0xD65F03C0], False),  # ret
        ([0xD65F0BFF], True),  # retaa
        ([0x58000040], False),  # ldr x0, literal
        ([0xD8000000], True),  # prfm literal
        ([0xC85F7C00], True),  # ldxr
        ([0xC8DFFC00], False),  # ldar
        ([0xC85F7C00, 0x91000400], True),  # add after ldxr
        ([0xC85F7C00, 0xC8017C00, 0x91000400], False),  # add after stxr
        ([0xC85F7C00, *[0xD503201F] * 31, 0x91000400], True),
        ([0xC85F7C00, *[0xD503201F] * 32, 0x91000400], False),
    ],
)
def test_what_arm64_refuses(words: list[int], refused: bool) -> None:
    code = b"".join(word.to_bytes(4, "little") for word in words)
    assert rules_arm64.refusal_errno_and_reason(code, len(code) - 4, OLD)[0] == (errno.EINVAL if refused else 0)


# A kernel in small: an entry that ftrace patches, a jump label, a static call, a trap of BUG(), a rewritten place, a
# listed function, its cold part, a preamble, an alias, another function of a name, and text that is freed.
KERNEL = """
.text
.globl _stext, _etext, __fentry__, f, g, g.cold, h, also_f, __cfi_h, padded, early, _sinittext
_stext:
.type __fentry__, @function
__fentry__: ret
.size __fentry__, . - __fentry__
.type f, @function
.type also_f, @function
f: also_f: call __fentry__
1: .byte 0x0f, 0x1f, 0x44, 0, 0
2: call g
3: ud2
4: mov %rsp, %rdi
5: mov %rdi, %rsi
   call *(%rax)
   jmp early
.size f, . - f
.size also_f, . - f
.type g, @function
g: nop
   ret
.size g, . - g
.type g.cold, @function
g.cold: ret
.size g.cold, . - g.cold
.type __cfi_h, @function
__cfi_h: nop
.size __cfi_h, . - __cfi_h
.type h, @function
h: endbr64
   call __fentry__
   ret
.size h, . - h
.type __SCT__jumps, @function
__SCT__jumps: .byte 0xe9
.long f - (. + 4)
.byte 0x0f, 0xb9, 0xcc
.size __SCT__jumps, . - __SCT__jumps
.type __SCT__returns, @function
__SCT__returns: ret
int3
nop
nop
nop
.byte 0x0f, 0xb9, 0xcc
.size __SCT__returns, . - __SCT__returns
.type twice, @function
twice: ret
.size twice, . - twice
_etext:
.section .init.text, "ax"
_sinittext:
.type early, @function
early: ret
.size early, . - early
.type twice2, @function
twice2: ret
.size twice2, . - twice2
.data
.globl __start___jump_table, __stop___jump_table, __start_static_call_sites, __stop_static_call_sites
.globl __start___bug_table, __stop___bug_table, __start_kprobe_blacklist, __stop_kprobe_blacklist
.globl __alt_instructions, __alt_instructions_end, __start_mcount_loc, __stop_mcount_loc
__start___jump_table: .long 1b - ., 4b - .
.quad 0
__stop___jump_table:
__start_static_call_sites: .long 2b - ., 0
__stop_static_call_sites:
__start___bug_table: .long 3b - .
.short 0, 0
__stop___bug_table:
__start_kprobe_blacklist: .quad g
__stop_kprobe_blacklist:
__alt_instructions: .long 5b - ., 5b - .
.short 1
.byte 3, 3
__alt_instructions_end:
__start_mcount_loc: .quad f, h + 4
__stop_mcount_loc:
"""
CONFIG = {"CONFIG_KPROBES_ON_FTRACE": "y", "CONFIG_GENERIC_BUG_RELATIVE_POINTERS": "y"}


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> FunctionSites:
    return FunctionSites(small_kernel(tmp_path_factory.mktemp("kernel"), CONFIG))


def small_kernel(directory: Path, config: dict[str, str]) -> Image:
    (directory / "kernel.s").write_text(KERNEL)
    architecture = ARCHITECTURES["x86_64"]
    vmlinux = directory / "vmlinux"
    gcc = [f"{architecture.cross_prefix}gcc", "-nostdlib", "-static", "-Wl,-e,_stext", "-Wl,--build-id=none"]
    subprocess.run([*gcc, directory / "kernel.s", "-o", vmlinux], check=True)
    recipe = SimpleNamespace(architecture=architecture, name="small", traits=Traits())
    return cast(Image, SimpleNamespace(vmlinux=vmlinux, config=config, release="6.1.0", version=(6, 1), recipe=recipe))


def test_every_offset_of_a_function(sites: FunctionSites) -> None:
    found = sites.describe_function("f")
    rows = {each.offset: (each.answer.accepted, each.answer.reason, each.patch_kind) for each in found.instructions}
    assert rows == {
        0x0: (True, "", "ftrace call"),
        0x5: (False, "jump label", ""),
        0xA: (False, "static call", ""),
        0xF: (False, "BUG or WARN", ""),
        0x11: (True, "", "breakpoint"),
        0x14: (None, "rewritten at boot", "breakpoint"),
        0x17: (False, "call or jump through memory", ""),
        0x19: (True, "", "breakpoint"),
    }
    assert all(each.confirmed_by_objdump for each in found.instructions)
    assert found.aliases == ("also_f",)
    assert found.size == 0x1E
    assert found.answers_inside_instructions[0x1] == Answer(False, errno.EILSEQ, "inside an instruction")
    assert found.answers_inside_instructions[0x6] == Answer(False, errno.EINVAL, "jump label")
    assert found.answers_inside_instructions[0xB] == Answer(False, errno.EINVAL, "static call")
    assert found.answers_inside_instructions[0x10] == Answer(False, errno.EILSEQ, "inside an instruction")
    assert found.answers_inside_instructions[0x15].accepted is None


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("g", "blacklisted"),
        ("g.cold", "part of a blacklisted function"),
        ("__cfi_h", "preamble of a function"),
        ("early", "text that is freed after boot"),
        ("twice", ""),
    ],
)
def test_entries_that_are_refused(name: str, reason: str, sites: FunctionSites) -> None:
    assert sites.describe_function(name).instructions[0].answer.reason == reason


def test_a_kernel_whose_functions_have_dots_accepts_a_probe_in_a_part_of_a_blacklisted_function(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reserved, "protects_suffixed_parts", lambda _: False)
    sites = FunctionSites(small_kernel(tmp_path, CONFIG))
    assert sites.describe_function("g.cold").instructions[0].answer == Answer(True)
    assert sites.describe_function("g").instructions[0].answer.reason == "blacklisted"


def test_the_first_instruction_of_a_trampoline_may_be_a_jump_or_a_return(sites: FunctionSites) -> None:
    jumps, returns = (
        sites.predict_all_offsets(sites.find_function_as_kernel_would(f"__SCT__{name}"))
        for name in ("jumps", "returns")
    )
    # The kernel writes a return and four traps over the jump of a call without a target; each is an instruction.
    assert all(jumps[offset] == Answer(False, 0, jumps[1].reason) for offset in range(1, 5))
    assert [returns[offset].accepted for offset in range(1, 5)] == [None] * 4
    for each in (jumps, returns):
        assert each[0] == each[5] == Answer(True)
        assert each[6] == Answer(False, errno.EILSEQ, "inside an instruction")


def test_a_landing_pad_moves_the_probe(sites: FunctionSites) -> None:
    found = sites.describe_function("h")
    assert found.landing_pad_size == 4
    assert [(each.offset, each.patch_kind) for each in found.instructions] == [
        (0, "ftrace call"),
        (4, "ftrace call"),
        (9, "breakpoint"),
    ]


def test_without_kprobes_on_ftrace_the_site_is_refused(tmp_path: Path) -> None:
    found = FunctionSites(small_kernel(tmp_path, {**CONFIG, "CONFIG_KPROBES_ON_FTRACE": "n"})).describe_function("f")
    assert found.instructions[0].answer == Answer(False, errno.EINVAL, "ftrace site")


def test_a_name_that_is_none_shows_similar_ones(sites: FunctionSites) -> None:
    with pytest.raises(UsageError, match=r"no function is named 'twic'; similar: twice, twice2"):
        sites.describe_function("twic")


@pytest.mark.parametrize(
    ("expected", "number", "address", "unlisted", "agreed", "settled"),
    [
        (Answer(True), 0, 0x10, False, 1, 0),
        (Answer(True), errno.EINVAL, 0, False, 0, 0),
        (Answer(True), 0, 0x14, False, 0, 0),
        (Answer(True), 0, 0x10, True, 0, 0),
        (Answer(False, errno.EINVAL, "x"), errno.EINVAL, 0, False, 1, 0),
        (Answer(False, errno.EINVAL, "x"), errno.EILSEQ, 0, False, 0, 0),
        (Answer(False, errno.EINVAL, "x"), 0, 0x10, False, 0, 0),
        (Answer(False, 0, "x"), errno.EILSEQ, 0, False, 1, 0),
        (Answer(None), errno.EILSEQ, 0, False, 0, 1),
        (Answer(None), 0, 0x10, False, 0, 1),
        (Answer(None), 0, 0x18, False, 0, 0),
    ],
)
def test_how_the_kernels_answer_is_compared(
    expected: Answer, number: int, address: int, unlisted: bool, agreed: int, settled: int
) -> None:
    proof = Proof()
    _compare(proof, "f", 0, expected, SiteReport("f", number, address, 0, 0), 0x10, unlisted)
    assert (proof.agreed_count, proof.settled_by_kernel_count, len(proof.differences)) == (
        agreed,
        settled,
        1 - agreed - settled,
    )
    assert proof.errno_by_offset == {("f", 0): number}


@pytest.mark.parametrize(
    ("number", "name"),
    [(errno.EOPNOTSUPP, "EOPNOTSUPP"), (35, "EDEADLK"), (524, "ENOTSUPP"), (22, "EINVAL"), (999, "999")],
)
def test_errors_have_the_kernels_names(number: int, name: str) -> None:
    assert kernel_errno_name(number) == name


def test_both_forms_of_output(sites: FunctionSites) -> None:
    found = sites.describe_function("f")
    text = sites_command_output.sites_table(found, {})
    assert "no: EINVAL, jump label" in text
    assert "unknown without --boot: rewritten at boot" in text
    assert "aliases: also_f" in text
    asked = {("f", 0): 0, ("f", 0x14): errno.EILSEQ}
    answered = json.loads(json.dumps(sites_command_output.function_as_json_object(found, asked)))
    rows = {row["offset"]: row for row in answered["offsets"]}
    assert rows[0]["kernel"] == "accepted"
    assert rows[0x14]["kernel"] == "EILSEQ"
    assert "kernel" not in rows[0x11]


class Silent:
    """A step that publishes nothing."""

    def publish_progress(self, *_: object) -> None:
        """Do nothing."""


def test_all_functions_are_counted_as_each_one_is_described(sites: FunctionSites) -> None:
    chosen = [sites.find_function_as_kernel_would(name) for name in ("f", "h")]
    tally = tally_functions(sites, chosen, cast(ProgressStep, Silent()))
    described = [each for symbol in chosen for each in predictions_of_function(sites.describe_function(symbol.name))]
    assert (tally.functions, tally.offsets, tally.left_out) == (2, len(described), [])
    assert tally.counts == Counter(answer_text(each.answer) for each in described)
    assert tally.counts["no: EINVAL, jump label"]
    assert {each.function for each in tally.tried} == {"f", "h"}
    assert set(tally.tried) <= set(described)
    # A probe on the entry of h is put after its landing pad.
    assert next(each.place for each in tally.tried if each.function == "h" and not each.offset) == chosen[1].address + 4
    assert "no: EINVAL, jump label" in sites_command_output.tally_table(tally)
    assert json.loads(sites_command_output.tally_as_json(tally))["offsets"] == len(described)


@pytest.mark.parametrize("words", [[], ["vfs_read", "--sample", "3"], ["vfs_read", "--all"], ["--sample=3", "--all"]])
def test_a_function_or_a_sample_or_all(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["sites", *words, "--vm", "parisc"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_x86_refuses_an_instruction_that_fills_its_copy() -> None:
    """A nop of 15 bytes, with which clang pads, leaves no room for a breakpoint; one of 14 bytes does."""
    longest = bytes.fromhex("666666666666 2e 0f1f840000000000")
    assert len(longest) == 15
    assert rules_x86.refusal_errno_and_reason(longest, 0, (6, 1)) == (errno.ENOSPC, "instruction of 15 bytes")
    assert rules_x86.refusal_errno_and_reason(longest, 1, (6, 1)) == (0, "")
    assert rules_x86.refusal_errno_and_reason(longest, 0, (5, 10)) == (0, "")

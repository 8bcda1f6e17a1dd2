"""What no kernel may take as a kprobe is refused with the right errno, and leaves nothing behind.

The errnos are those of kernel/kprobes.c and arch/*/kernel/kprobes.c in 6.1; where architectures differ they stand in
the architecture table. After each attempt the guest is checked: no complaint, no module, no kprobe left.
"""

import errno

import pytest

from harness.guest.guest import Guest
from harness.landing.layout import Layout
from harness.landing.probing import ProbingIn
from harness.landing.refusal import expect_refusal
from harness.landing.site import Site
from harness.landing.target import Target


@pytest.mark.requires("kprobes")
@pytest.mark.mutants("registers-anyway")
@pytest.mark.parametrize(
    "spec",
    [
        pytest.param("pinpoint_no_such_symbol", id="unknown-symbol"),
        pytest.param("pinpoint_absent:clock_t_to_jiffies", id="absent-module"),
        pytest.param("+0x0", id="empty-name"),
    ],
)
def test_unresolvable_name(probing: ProbingIn, spec: str) -> None:
    """A name that kallsyms does not know is ENOENT (_kprobe_addr(), since 4.13)."""
    expect_refusal(probing, spec, errno.ENOENT)


@pytest.mark.requires("kprobes")
@pytest.mark.mutants("registers-anyway")
def test_inside_an_instruction(guest: Guest, layout: Layout, target: Target, probing: ProbingIn) -> None:
    """An offset inside an instruction, or misaligned where all are of one width, is refused by the architecture."""
    traits = guest.image.recipe.architecture.probing
    for site in layout.mid_instruction(target.site("leaf"))[:3]:
        expect_refusal(probing, site.spec, traits.mid_instruction)


@pytest.mark.requires("kprobes")
@pytest.mark.mutants("registers-anyway")
def test_blacklisted(guest: Guest, probing: ProbingIn) -> None:
    """A function on the kernel's own blacklist is EINVAL (within_kprobe_blacklist())."""
    blacklisted = [line.split()[-1] for line in guest.read_text("/sys/kernel/debug/kprobes/blacklist").splitlines()]
    symbol = next(name for name in blacklisted if name.isidentifier())
    expect_refusal(probing, symbol, errno.EINVAL)


@pytest.mark.requires("kprobes")
@pytest.mark.mutants("registers-anyway")
def test_symbol_and_address(layout: Layout, probing: ProbingIn) -> None:
    """Both a symbol and an address are EINVAL, even when they mean the same place."""
    address = layout.address(Site("clock_t_to_jiffies"))
    expect_refusal(probing, f"@{address:#x}/clock_t_to_jiffies", errno.EINVAL)

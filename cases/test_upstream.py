"""The kernel's own tests of kprobes and uprobes pass: its ftrace selftests, and KUnit's suite for kprobes.

They come from the source of the VM's own kernel and are run by the kernel's own runners, one test a cell. They are
compared with the other cases in docs/upstream-tests.md.
"""

import pytest

from harness.landing.landing_judgment import Missed
from harness.matrix.upstream.fixture import UpstreamTests

# Kprobes must be armed for this one.
ARMED = "kprobe/kprobe_args_symbol.tc"
# tools/testing/selftests/ftrace/test.d of 5.10 to 7.3. A kernel that lacks one skips it.
SELFTESTS = (
    "direct/kprobe-direct.tc",
    "dynevent/add_remove_kprobe.tc",
    "dynevent/add_remove_uprobe.tc",
    "dynevent/btf_typecast_accepted.tc",
    "dynevent/clear_select_events.tc",
    "dynevent/dynevent_limitations.tc",
    "dynevent/test_duplicates.tc",
    "kprobe/add_and_remove.tc",
    "kprobe/busy_check.tc",
    "kprobe/kprobe_args.tc",
    "kprobe/kprobe_args_char.tc",
    "kprobe/kprobe_args_comm.tc",
    "kprobe/kprobe_args_string.tc",
    "kprobe/kprobe_args_syntax.tc",
    "kprobe/kprobe_args_type.tc",
    "kprobe/kprobe_args_user.tc",
    "kprobe/kprobe_args_vfs.tc",
    "kprobe/kprobe_eventname.tc",
    "kprobe/kprobe_ftrace.tc",
    "kprobe/kprobe_insn_boundary.tc",
    "kprobe/kprobe_module.tc",
    "kprobe/kprobe_multiprobe.tc",
    "kprobe/kprobe_non_uniq_symbol.tc",
    "kprobe/kprobe_opt_types.tc",
    "kprobe/kprobe_syntax_errors.tc",
    "kprobe/kretprobe_args.tc",
    "kprobe/kretprobe_entry_arg.tc",
    "kprobe/kretprobe_maxactive.tc",
    "kprobe/kretprobe_return_suffix.tc",
    "kprobe/multiple_kprobes.tc",
    "kprobe/probepoint.tc",
    "kprobe/profile.tc",
    "kprobe/uprobe_syntax_errors.tc",
)
# lib/test_kprobes.c, or lib/tests/test_kprobes.c.
KUNIT_TESTS = (
    "test_kprobe",
    "test_kprobes",
    "test_kprobe_missed",
    "test_kretprobe",
    "test_kretprobes",
    "test_stacktrace_on_kretprobe",
    "test_stacktrace_on_nested_kretprobe",
)

pytestmark = pytest.mark.requires("kprobes")


# Its first probes are on the entry of kernel_clone(): without them, no hit that the mutant could take away.
@pytest.mark.full
@pytest.mark.requires("traced_entry_kprobes")
@pytest.mark.mutants("kprobes-disarmed")
def test_selftest_with_armed_kprobes(upstream_tests: UpstreamTests) -> None:
    """A kprobe's arguments are values of symbols, and appear in the trace when the function is called."""
    upstream_tests.run_selftest(ARMED)


@pytest.mark.full
@pytest.mark.mutants("read-only-tracefs")
@pytest.mark.parametrize("test", SELFTESTS, ids=lambda test: test.removesuffix(".tc").replace("/", "-"))
def test_selftest(upstream_tests: UpstreamTests, test: str) -> None:
    """An ftrace selftest of kprobes or uprobes passes."""
    upstream_tests.run_selftest(test)


@pytest.mark.full
def test_every_selftest_is_listed(upstream_tests: UpstreamTests) -> None:
    """The kernel's source has no selftest of kprobes or uprobes that the list above lacks."""
    unlisted = upstream_tests.unlisted_selftests((ARMED, *SELFTESTS))
    if unlisted:
        raise Missed(f"no cell runs {', '.join(unlisted)}: add them to cases/test_upstream.py")


@pytest.mark.full
@pytest.mark.mutants("kprobes-disarmed")
@pytest.mark.parametrize("test", KUNIT_TESTS)
def test_kunit(upstream_tests: UpstreamTests, test: str) -> None:
    """A test of KUnit's suite for kprobes passes."""
    upstream_tests.run_kunit(test)

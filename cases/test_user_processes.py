"""A uprobe belongs to the file, not to a process: it is there in processes of before and after, and goes from all."""

import pytest

from harness.images.user_targets import ONE, PLAIN, RUNNER, TWO
from harness.landing.landing import Missed
from harness.userspace.probe_run import Uprobes

TIMES = 3
LEAF = "pinpoint_one_leaf"


@pytest.mark.requires("uprobes")
@pytest.mark.mutants("user-one-instruction-off", "user-other-file")
def test_started_before_and_after(uprobes: Uprobes) -> None:
    """The process that ran before the probe has it, as has the one that is started while it is there."""
    file = uprobes.file(ONE)
    with uprobes.runner() as early:
        with uprobes.on(file, [file.site(LEAF)]).before(early) as run, uprobes.runner() as late:
            early.call(LEAF, TIMES)
            late.call(LEAF, 1)
            run.look(early, late, ask="")
        run.prove({early.pid: TIMES, late.pid: 1})
        run.prove_restored()


@pytest.mark.requires("uprobes")
@pytest.mark.mutants("user-link-address", "user-unarmed")
def test_dlopen_and_dlclose(uprobes: Uprobes) -> None:
    """A DSO linked at another base, probed before dlopen(): hit in each life of its mapping, gone after dlclose()."""
    file = uprobes.file(ONE, "based")
    with uprobes.runner() as process, uprobes.on(file, [file.site(LEAF)]) as run:
        for _ in range(2):
            slot = process.ask(f"open {file.path}")["slot"]
            process.call(f"+{LEAF}", TIMES)
            run.look(process, ask="+")
            process.ask(f"close {slot}")
        process.call(LEAF, TIMES)
    run.prove(2 * TIMES)
    after = run.mapped_after(process)
    if after:
        raise Missed(f"mapped after dlclose(): {after}")


@pytest.mark.requires("uprobes")
@pytest.mark.mutants("user-unarmed")
def test_fork(uprobes: Uprobes) -> None:
    """A child has its parent's breakpoints, and counts as a process of its own."""
    file = uprobes.file(TWO)
    site = file.site("pinpoint_two_leaf")
    with uprobes.runner() as process:
        parent = process.pid
        with uprobes.on(file, [site]).before(process) as run:
            process.call(site.symbol, TIMES)
            child = process.fork()
            process.call(site.symbol, 1)
            run.look_at(child)
            if process.reap():
                raise Missed("the child did not end well")
            process.pid = parent
            process.call(site.symbol, 1)
            run.look(process)
        run.prove({parent: TIMES + 1, child: 1})
        run.prove_restored()


@pytest.mark.requires("uprobes")
@pytest.mark.mutants("user-unarmed")
def test_exec(uprobes: Uprobes) -> None:
    """exec() makes new mappings in the same process: the probe is in those, too."""
    file = uprobes.file(RUNNER)
    site = file.site("pinpoint_runner_leaf")
    with uprobes.runner() as process:
        with uprobes.on(file, [site]).before(process) as run:
            process.call(site.symbol, TIMES)
            process.exec(file)
            process.call(site.symbol, TIMES)
            run.look(process, ask="")
        run.prove(2 * TIMES)
        run.prove_restored()


@pytest.mark.requires("uprobes")
@pytest.mark.mutants("user-unarmed")
def test_under_ptrace(uprobes: Uprobes) -> None:
    """A traced child hits as any other process: its tracer reads the breakpoint, and no trap of a uprobe reaches it."""
    file = uprobes.file(ONE)
    with uprobes.runner() as process:
        with uprobes.on(file, [file.site(LEAF)]) as run:
            child = int(process.ask(f"traced {LEAF} {TIMES}")["pid"])
            run.look_at(child)
            told = process.ask("go")
        run.prove({child: TIMES})
        order = "little" if file.elf.little_endian else "big"
        word = int(told["word"], 16).to_bytes(file.elf.word_bytes, order)
        breakpoint_ = uprobes.guest.architecture.kprobes.uprobe_breakpoint
        if not word.startswith(breakpoint_) or (told["stops"], told["status"]) != ("0", "0"):
            raise Missed(f"the tracer saw {told}")


@pytest.mark.requires("uprobes")
@pytest.mark.mutants("user-trusts-any-build")
def test_replaced_file(uprobes: Uprobes) -> None:
    """A file renamed over a mapped one: the old inode stays probed, and sites of the old build are refused."""
    old, new = uprobes.file(ONE), uprobes.file(ONE, "rebuilt")
    directory = "/tmp/pinpoint_replaced"
    copies = " ".join(uprobes.file(name).path for name in (RUNNER, ONE, TWO))
    uprobes.guest.script(f"mkdir {directory} && cp {copies} {directory}/").check()
    try:
        file = old.moved_to(f"{directory}/{ONE}")
        site = file.site("pinpoint_one_calls")
        with uprobes.started(f"{directory}/{RUNNER}") as early:
            with uprobes.on(file, [site]).before(early) as run:
                uprobes.guest.script(f"cp {new.path} {file.path}.new && mv {file.path}.new {file.path}").check()
                early.call(site.symbol, TIMES)
                run.look(early, ask="")
                with uprobes.started(f"{directory}/{RUNNER}") as late:
                    late.call(site.symbol, 1)
            run.prove(TIMES)
            run.prove_only_in(early.pid)
            refused = uprobes.expect_build_refused(file, [site])
            assert new.elf.build_id[:12] in refused
    finally:
        uprobes.guest.run("rm", "-r", directory).check()


@pytest.mark.requires("uprobes")
def test_plain_build_is_what_runs(uprobes: Uprobes) -> None:
    """The control of every case here: the file in the guest has the build-id of the file that sites come from."""
    for name in (RUNNER, ONE, TWO):
        file = uprobes.file(name, PLAIN)
        assert file.build_id_in_guest() == file.elf.build_id

"""The modules that are probed, removed and loaded again while whatever probes them runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from harness.guest.guest import Guest
from harness.landing.verify.judged import JudgedProbe, ProbeVerdict
from harness.landing.verify.watch_and_judge_registrations import WatchedGuest
from harness.matrix.verify.subjects import Modules, path_and_parameters_for_shell

# Removals and loads in a row, none of which waits for the tool.
_STRESS = 20
_SECONDS = 120.0


@dataclass
class RemovalOutcome:
    """What became of the probes; `wrongs` make the status 1."""

    notes: list[str] = field(default_factory=list)
    wrongs: list[str] = field(default_factory=list)


def reload_probed_modules(
    guest: Guest, watched: WatchedGuest, probes: Sequence[JudgedProbe], loaded: Modules
) -> RemovalOutcome:
    """Remove each module that has a probe and load it again: once with a look after each step, then many times.

    Only modules that were loaded for the run can be removed; `loaded` has them. Raises what the guest raises.
    """
    outcome = RemovalOutcome()
    probed = {name for each in probes for name in [_module(each.symbol_offset)] if name}
    targets = [each for each in loaded.loaded_modules if each.name in probed and not each.judged]
    for name in sorted(probed - {each.name for each in loaded.loaded_modules}):
        outcome.notes.append(f"{name} is not removed: it was not loaded for this run; give it with --with")
    if not targets:
        outcome.wrongs.append("--remove-targets removed nothing: no probe stands in a module that --with has loaded")
        return outcome
    for target in targets:
        load = f"insmod {path_and_parameters_for_shell(target)}"
        result = guest.run_script(f"rmmod {target.name}")
        if not result.ok:
            outcome.notes.append(
                f"{target.name} cannot be removed while it is probed: {' '.join(result.stderr.split())}"
            )
            continue
        _after(outcome, watched, f"after {target.name} was removed", target.name, gone=True)
        guest.run_script(load).check()
        _after(outcome, watched, f"after {target.name} was loaded again", target.name, gone=False)
        both = f"rmmod {target.name} && {load} || exit; "
        guest.run_script(f"for turn in $(seq {_STRESS}); do {both} done", guest.scaled_deadline(_SECONDS)).check()
        _after(outcome, watched, f"after {_STRESS} more times", target.name, gone=False)
    return outcome


def _after(outcome: RemovalOutcome, watched: WatchedGuest, when: str, name: str, *, gone: bool) -> None:
    """Judge the module's probes; one that is listed as armed in a module that is gone is wrong."""
    judgement = watched.judge()
    mine = [each for each in judgement.probes if _module(each.symbol_offset) == name or name in each.asked.split(":")]
    # A tool that registers anew at each load leaves one registration behind for each removal.
    earlier = [each for each in mine if each.verdict is ProbeVerdict.GONE and each.landing is None]
    for each in mine:
        if each in earlier:
            continue
        standing = gone and each.verdict is ProbeVerdict.LANDED
        (outcome.wrongs if standing or each.verdict is ProbeVerdict.MISSED else outcome.notes).append(
            f"{when}, the probe on {each.asked} is {each.verdict_line}"
        )
    if earlier:
        outcome.notes.append(f"{when}, {len(earlier)} registrations are listed no more")
    if not mine:
        outcome.notes.append(f"{when}, no probe on it is listed")
    outcome.wrongs += [
        f"{when}, text changed where no list has a probe: {text}" for text in judgement.unexplained_changes
    ]


def _module(means: str) -> str:
    """The module in `sym+0xoff [mod]`, empty for the kernel."""
    return means.partition("[")[2].rstrip("]")

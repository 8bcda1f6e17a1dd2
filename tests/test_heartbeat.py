"""The heartbeat reports and diagnoses a hang within five beats; a slow answer or a busy host is not a hang."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from harness.core.architecture_table import ARCHITECTURES
from harness.core.deadline import Deadline
from harness.core.errors import DeadlineExceeded, HostError
from harness.guest import heartbeat as heart_module
from harness.guest.heartbeat import CpuRegisterSample, Heartbeat, MissedHeartbeatsRecord, parse_cpu_register_samples
from harness.guest.monitor import MonitorEvent
from harness.guest.steal_time import GuestTime
from harness.verdict.cell_verdict_enum import Verdict
from harness.verdict.complaints import read_complaints
from harness.verdict.liveness import Condition, diagnose_guest

# Long enough that a thread of a busy host does not wait for a large part of it.
BEAT = 0.3
SOON = 60.0
REGISTERS = {
    "x86_64": "CPU#0\nRIP=ffffffffc024a8b3 RFL=00000046 [---Z-P-] \nCPU#1\nRIP=ffffffff81000010 RFL=00000246 [-]\n",
    "arm64": " PC=ffff800008010000 X00=0000000000000000\nPSTATE=600000c5 -ZC- NS EL1h    FPCR=00000000\n",
    "parisc": "IA_F 00000000:008534c8 IA_B 00000000:008534cc\nPSW  0006ff0f CB   00000000 -------CRQPDI\n",
    "loongarch64": "CPU#0\n PC=9000000000758c18  FCSR0 0x00000000\n CSR000: CRMD   b4               PRMD   4       \n",
}
LOOKS = {
    "x86_64": [CpuRegisterSample(0, 0xFFFFFFFFC024A8B3, False), CpuRegisterSample(1, 0xFFFFFFFF81000010, True)],
    "arm64": [CpuRegisterSample(0, 0xFFFF800008010000, False)],
    "parisc": [CpuRegisterSample(0, 0x008534C8, True)],
    "loongarch64": [CpuRegisterSample(0, 0x9000000000758C18, True)],
}


class Link:
    """An SSH connection whose server answers or does not."""

    def __init__(self) -> None:
        self.alive = True
        self.answers = threading.Event()
        self.waiting: Any = None
        self.beats = 0

    def send_keepalive(self) -> None:
        self.beats += 1
        self.answers.wait(SOON)


class Monitor:
    """QEMU's monitor with fixed registers; a test sets `paused` and `dumb`."""

    def __init__(self) -> None:
        self.is_guest_paused = self.dumb = self.gone = False
        self.kept_events: list[MonitorEvent] = []

    def execute(self, _: str, **__: object) -> str:
        if self.dumb:
            raise DeadlineExceeded("nothing")
        return REGISTERS["x86_64"]

    def events(self) -> list[MonitorEvent]:
        return self.kept_events


CPU_ERROR = "qemu: fatal: Trap 0x0170 while trap level (5) >= MAXTL (5), Error state\npc: 00000000004049e4"


class Scene:
    """A heartbeat, its guest, and its reports."""

    def __init__(self) -> None:
        self.link, self.monitor, self.reasons = Link(), Monitor(), list[str]()
        self.emulator = SimpleNamespace(
            name="a-vm", pid=1, monitor=self.monitor, exit_status=None, qemu_messages=lambda: "bye"
        )
        registers = ARCHITECTURES["x86_64"].kprobe_traits.register_parser
        self.heartbeat = Heartbeat(cast(Any, self.emulator), cast(Any, self.link), registers, self.reasons.append)
        self.guest = cast(
            Any,
            SimpleNamespace(
                heartbeat=self.heartbeat,
                monitor=self.monitor,
                ssh_connection=self.link,
                architecture=ARCHITECTURES["sparc64"],
            ),
        )

    def wait_for_hang(self, seconds: float) -> bool:
        end = time.monotonic() + seconds
        while not self.reasons and time.monotonic() < end:
            time.sleep(0.01)
        return bool(self.reasons)

    def asked_more_than_once(self) -> bool:
        deadline = Deadline.after(SOON)
        while self.link.beats < 2:
            deadline.require_time_left("a second question")
            time.sleep(0.01)
        return True


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    monkeypatch.setattr(heart_module, "_BEAT", BEAT)
    monkeypatch.setattr(GuestTime, "run_and_wait_seconds_by_thread", lambda _: {})
    made = Scene()
    yield made
    made.link.alive = False
    made.link.answers.set()


@pytest.mark.parametrize("name", REGISTERS)
def test_where_each_cpu_is_and_whether_it_takes_interrupts(name: str) -> None:
    assert parse_cpu_register_samples(REGISTERS[name], ARCHITECTURES[name].kprobe_traits.register_parser) == LOOKS[name]


def test_interrupted_status_word_of_parisc_is_no_cpu() -> None:
    text = (
        "CPU#0\nIA_F 00000000:0000000000157580 (0x157580)\nIA_B 00000000:0000000000157584 (0x157584)\n"
        "PSW  0000000008000000 CB   0000000000000000 W-----------------\n"
        "ISR  0000000000000002 IOR  000000001f375648 IPSW 000000000804000f EIRR a000000000000000\n"
    )
    looks = parse_cpu_register_samples(text, ARCHITECTURES["parisc64"].kprobe_traits.register_parser)
    assert looks == [CpuRegisterSample(0, 0x157580, False)]


@pytest.mark.parametrize("text", ["", "RIP=ffffffffc024a8b3\n", REGISTERS["x86_64"].partition(" RFL=00000246")[0]])
def test_registers_that_cannot_be_read_are_an_error_at_boot(scene: Scene, text: str) -> None:
    scene.monitor.execute = lambda *_, **__: text  # type: ignore[method-assign]
    with pytest.raises(HostError, match=r"program counters and \d interrupt flags"):
        scene.heartbeat.calibrate(lambda _: None)


def test_a_hang_is_reported_within_five_beats(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    # The time that this process waits between two checks does not count; the checks are an eighth of a beat apart.
    monkeypatch.setattr(GuestTime, "seconds_since_last_call", lambda _: BEAT / heart_module._LAPS_A_BEAT)
    with scene.link.waiting():
        assert scene.wait_for_hang(100 * BEAT)
    assert scene.heartbeat.silence is not None
    assert 3.9 < scene.heartbeat.silence.missed_beats <= 5
    assert "no heartbeat" in scene.reasons[0]


def test_nobody_is_asked_while_nobody_waits(scene: Scene) -> None:
    assert not scene.wait_for_hang(5 * BEAT)
    assert scene.link.beats == 0


def test_a_guest_that_answers_is_left_alone(scene: Scene) -> None:
    scene.link.answers.set()
    with scene.link.waiting():
        assert not scene.wait_for_hang(5 * BEAT)
        assert scene.asked_more_than_once()
    assert not scene.reasons


def test_a_paused_guest_does_not_hang(scene: Scene) -> None:
    scene.monitor.is_guest_paused = True
    with scene.link.waiting():
        assert not scene.wait_for_hang(6 * BEAT)


def test_what_the_host_did_not_let_it_run_does_not_count(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    began = time.monotonic()
    monkeypatch.setattr(
        GuestTime, "run_and_wait_seconds_by_thread", lambda _: {"1": (0.0, 0.95 * (time.monotonic() - began))}
    )
    with scene.link.waiting():
        assert not scene.wait_for_hang(6 * BEAT)


def test_a_slow_guest_has_long_beats(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = iter((1.0, 1.0 + 9 * heart_module._USUAL_LOOP, 2.0, 2.0 + 4 * heart_module._USUAL_LOOP))
    monkeypatch.setattr(GuestTime, "run_and_wait_seconds", lambda _: (next(ran), 0.0))
    scene.heartbeat.calibrate(lambda _: None)
    assert scene.heartbeat.beat_seconds == pytest.approx(4 * BEAT)


def silent(*takes_interrupts: bool) -> MissedHeartbeatsRecord:
    return MissedHeartbeatsRecord(4.1, 3.0, tuple(CpuRegisterSample(0, 0x1000, takes) for takes in takes_interrupts))


PANIC = "[    9.505260] Kernel panic - not syncing: asked to\n"
OOPS = "[    9.505260] kernel BUG at probes/crash/faults.c:36!\n"


@pytest.mark.parametrize(
    ("change", "console", "condition", "verdict"),
    [
        ({}, "", Condition.ALIVE, Verdict.PASS),
        ({"latest": 7.0}, "", Condition.SLOW, Verdict.PASS),
        ({}, OOPS, Condition.OOPSED, Verdict.OOPS),
        ({"silence": silent(False, True)}, "", Condition.SOFT_HANG, Verdict.HANG),
        ({"silence": silent(False, False)}, OOPS, Condition.HARD_HANG, Verdict.HANG),
        ({"silence": silent(True, True)}, PANIC + PANIC, Condition.PANICKED, Verdict.PANIC),
        ({"silence": silent()}, "", Condition.OUR_FAULT, Verdict.HARNESS_ERROR),
        ({"event": "SHUTDOWN"}, PANIC, Condition.PANICKED, Verdict.PANIC),
        ({"event": "SHUTDOWN", "silence": silent(True)}, "", Condition.PANICKED, Verdict.PANIC),
        ({"status": -9}, "", Condition.QEMU_DIED, Verdict.HARNESS_ERROR),
        ({"status": -6, "messages": CPU_ERROR}, "", Condition.PANICKED, Verdict.PANIC),
        ({"alive": False}, "", Condition.OUR_FAULT, Verdict.HARNESS_ERROR),
    ],
)
def test_what_became_of_a_guest(
    scene: Scene, change: dict[str, Any], console: str, condition: Condition, verdict: Verdict
) -> None:
    scene.heartbeat.latest = change.get("latest", 0.0)
    scene.heartbeat.silence = change.get("silence")
    scene.emulator.exit_status = change.get("status")
    scene.emulator.qemu_messages = lambda: change.get("messages", "bye")
    scene.link.alive = change.get("alive", True)
    if "event" in change:
        scene.monitor.kept_events.append(MonitorEvent(change["event"], {"reason": "guest-reset"}))
    found = diagnose_guest(scene.guest, read_complaints(console), hex)
    assert (found.condition, found.condition.verdict) == (condition, verdict)
    assert found.evidence.count("Kernel panic") <= 1
    if found.condition is Condition.SOFT_HANG:
        assert "CPU 0 at 0x1000 (2/2)" in found.evidence


def test_a_guest_without_a_connection_is_booting() -> None:
    found = diagnose_guest(cast(Any, SimpleNamespace(heartbeat=None)), [])
    assert (found.condition, found.condition.verdict) == (Condition.BOOTING, Verdict.BOOT_FAIL)

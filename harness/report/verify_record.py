"""The record of `./pinpoint verify --json`: one object for each VM."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from harness.landing.verify.judged import JudgedProbe, ProbeVerdict


class ProbeRecord(BaseModel):
    """One probe and its verdict.

    `asked` is the place that its owner asked for, or, if it asked for an address, the place that the kernel lists.
    `address` is in hex, null if none is known. `means` is the address as symbol + offset by the ELF files. `memory` is
    what changed there. `owner` is the module or the program that registered the probe. `why` is the reason of a verdict
    other than `landed`. `seconds` counts from the beginning of the judgement to the registration, null if unknown.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    asked: str
    kind: str
    verdict: ProbeVerdict
    address: str | None
    means: str
    memory: str
    owner: str
    why: str
    notes: tuple[str, ...]
    seconds: float | None

    @classmethod
    def of(cls, probe: JudgedProbe) -> ProbeRecord:
        """Return the record of a judged probe."""
        return cls(
            asked=probe.asked,
            kind=probe.kind,
            verdict=probe.verdict,
            address=None if probe.address is None else f"{probe.address:#x}",
            means=probe.symbol_offset,
            memory=probe.memory_change,
            owner=probe.owner,
            why=probe.reason,
            notes=probe.notes,
            seconds=None if probe.seconds_since_start is None else round(probe.seconds_since_start, 3),
        )


class VerifyRecord(BaseModel):
    """What was verified on one VM: an element of the array that `./pinpoint verify --json` prints.

    `about` names the modules, the command or the script. `status` is 1 if a probe was missed or `wrong` has a line.
    `seconds` has the duration of each phase.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    vm: str
    release: str
    about: str
    status: Literal[0, 1]
    probes: tuple[ProbeRecord, ...]
    wrong: tuple[str, ...]
    notes: tuple[str, ...]
    seconds: dict[str, float]

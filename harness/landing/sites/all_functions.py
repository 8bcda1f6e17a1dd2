"""The answers for every offset of every function of a kernel, counted; and some offsets of each, to try in a guest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from harness.core.elf import Symbol
from harness.core.errors import HostError, PinpointError
from harness.core.events import ProgressStep
from harness.core.kernel_errno_names import kernel_errno_name
from harness.landing.sites.function import Answer, Function, FunctionSites

# A step that spreads the offsets that are tried over the lengths of functions.
_STRIDE = 7919


@dataclass(frozen=True)
class Prediction:
    """The answer that the files show for a probe on `function` + `offset`; `place` is its link address."""

    function: str
    offset: int
    place: int
    answer: Answer


@dataclass
class Tally:
    """How many offsets have each answer, by a line of text; the functions that are not code; what is to be tried."""

    functions: int = 0
    offsets: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    left_out: list[str] = field(default_factory=list)
    tried: list[Prediction] = field(default_factory=list)


def predictions_of_function(function: Function) -> Iterator[Prediction]:
    """Yield the prediction for every offset of a function, in order."""
    known = {each.offset: each.answer for each in function.instructions} | function.answers_inside_instructions
    for offset in sorted(known):
        place = function.address + offset + (0 if offset else function.landing_pad_size)
        yield Prediction(function.name, offset, place, known[offset])


def tally_functions(sites: FunctionSites, chosen: Sequence[Symbol], step: ProgressStep) -> Tally:
    """Count the answers for every offset of the functions. `tried` gets two offsets of each: its entry and another."""
    tally = Tally()
    for number, symbol in enumerate(chosen):
        if not number % 100:
            step.publish_progress(symbol.name, number / len(chosen))
        try:
            answers = sites.predict_all_offsets(symbol)
        except HostError:
            raise
        except PinpointError as error:
            tally.left_out.append(str(error))
            continue
        tally.functions += 1
        tally.offsets += len(answers)
        tally.counts.update(answer_text(answer) for answer in answers.values())
        for offset in sorted({0, number * _STRIDE % len(answers)}):
            place = symbol.address + offset + (0 if offset else sites.landing_pad_size(symbol))
            tally.tried.append(Prediction(symbol.name, offset, place, answers[offset]))
    return tally


def answer_text(answer: Answer) -> str:
    """Return one line for an answer."""
    if answer.accepted is None:
        return f"unknown without --boot: {answer.reason}"
    number = f"{kernel_errno_name(answer.errno)}, " if answer.errno else ""
    return "yes" if answer.accepted else f"no: {number}{answer.reason}"

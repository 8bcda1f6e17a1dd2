"""The output of `./pinpoint sites`: a table for people, JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from harness.core.kernel_errno_names import kernel_errno_name
from harness.core.text_table import align_columns
from harness.landing.sites.all_functions import Tally
from harness.landing.sites.function import Answer, Function, InstructionSite
from harness.verdict.printk import without_control_codes


def sites_table(function: Function, answers: dict[tuple[str, int], int]) -> str:
    """Return the table of one function; `answers` are those of a booted kernel, empty without one."""
    head = [f"{function.name}: {function.size} bytes at {function.address:#x}"]
    if function.landing_pad_size:
        head.append(f"    a probe on +0x0 is put on +{function.landing_pad_size:#x}, after the landing pad")
    if function.aliases:
        head.append(f"    aliases: {', '.join(function.aliases)}")
    if function.same_name_symbols:
        head.append(f"    also named so, not found by name: {', '.join(function.same_name_symbols)}")
    rows: list[tuple[str, ...]] = [("offset", "probe", "arms", "confirmed by", "instruction")]
    rows += [_row(function.name, each, answers) for each in function.instructions]
    return without_control_codes(
        "\n".join([*head, *(f"    {line}" for line in align_columns(rows)), *_inside(function, answers)])
    )


def tally_table(tally: Tally) -> str:
    """Return the table of all functions' answers, the most frequent first."""
    rows: list[tuple[str, ...]] = [("offsets", "part", "probe")]
    for answer, count in tally.counts.most_common():
        rows.append((f"{count:,}", f"{100 * count / tally.offsets:.2f} %", answer))
    return "\n".join(align_columns(rows))


def tally_as_json(tally: Tally) -> str:
    """Return the answers of all functions as JSON: the numbers of functions and of offsets, those of each answer."""
    counted = dict(tally.counts.most_common())
    found = {"functions": tally.functions, "offsets": tally.offsets, "answers": counted, "left_out": tally.left_out}
    return json.dumps(found, indent=2)


def function_as_json_object(function: Function, answers: dict[tuple[str, int], int]) -> dict[str, Any]:
    """Return one function for JSON; offsets and sizes are in bytes, addresses are link addresses."""
    return {
        "function": function.name,
        "address": function.address,
        "size": function.size,
        "entry_shift": function.landing_pad_size,
        "aliases": list(function.aliases),
        "others": list(function.same_name_symbols),
        "offsets": [
            {
                "offset": each.offset,
                "size": each.size,
                "instruction": each.disassembly,
                **_answer(function.name, each.offset, each.answer, answers),
                "arms": each.patch_kind,
                "objdump": each.confirmed_by_objdump,
            }
            for each in function.instructions
        ],
        "inside": [
            {"offset": offset, **_answer(function.name, offset, answer, answers)}
            for offset, answer in sorted(function.answers_inside_instructions.items())
        ],
    }


def _row(name: str, each: InstructionSite, answers: dict[tuple[str, int], int]) -> tuple[str, ...]:
    kernel = answers.get((name, each.offset))
    confirmed = [*(["objdump"] if each.confirmed_by_objdump else []), *(["kernel"] if kernel is not None else [])]
    return (
        f"+{each.offset:#x}",
        _words(each.answer, kernel),
        each.patch_kind if not kernel else "",
        ", ".join(confirmed) or "nothing",
        each.disassembly,
    )


def _words(answer: Answer, kernel: int | None) -> str:
    if kernel is not None:
        reason = f", {answer.reason}" if kernel and answer.accepted is False else ""
        return f"no: {_name(kernel)}{reason}" if kernel else "yes"
    if answer.accepted is None:
        return f"unknown without --boot: {answer.reason}"
    return "yes" if answer.accepted else f"no: {_name(answer.errno)}, {answer.reason}"


def _inside(function: Function, answers: dict[tuple[str, int], int]) -> Iterator[str]:
    """Summarize the offsets inside of instructions by their answer."""
    counts: dict[str, int] = {}
    for offset, answer in function.answers_inside_instructions.items():
        words = _words(answer, answers.get((function.name, offset)))
        counts[words] = counts.get(words, 0) + 1
    for words, count in counts.items():
        yield f"    {count} offsets inside of instructions: {words}"


def _answer(name: str, offset: int, answer: Answer, answers: dict[tuple[str, int], int]) -> dict[str, Any]:
    found: dict[str, Any] = {
        "accepted": answer.accepted,
        "errno": kernel_errno_name(answer.errno) if answer.errno else "",
        "reason": answer.reason,
    }
    kernel = answers.get((name, offset))
    return found if kernel is None else {**found, "kernel": kernel_errno_name(kernel) if kernel else "accepted"}


def _name(number: int) -> str:
    return kernel_errno_name(number) if number else "EINVAL or EILSEQ"

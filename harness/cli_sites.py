"""The command that lists where a probe may be in a function: sites."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from functools import partial

import click

from harness.cli_common import example_epilog, project_option
from harness.core import paths
from harness.core.errors import CELL_FAILED, HostError, PinpointError, UsageError
from harness.core.events import Bus
from harness.images.build_context import BuildContext
from harness.images.image import Image
from harness.images.prepare import prepare
from harness.images.vm_recipe import Recipe, select
from harness.landing.code.function_selection import evenly_spread, text_functions_named_once
from harness.landing.sites.all_functions import Prediction, Tally, predictions_of_function, tally_functions
from harness.landing.sites.function import Function, FunctionSites
from harness.matrix.commands import prove_sites
from harness.matrix.commands.prove_sites import Proof
from harness.matrix.verify import guest_start_and_kernel_complaints as guests
from harness.report import sites_command_output
from harness.report.live_or_plain_progress_board import Board

_SHOWN = 20


@click.command(name="sites", epilog=example_epilog("sites vfs_read --vm x86_64-debian"))
@click.argument("names", metavar="FUNC...", nargs=-1)
@click.option("--vm", required=True, metavar="NAME", help="The VM whose kernel has the function.")
@project_option
@click.option("--sample", type=click.IntRange(1), metavar="N", help="Instead of FUNC: N functions, evenly spread.")
@click.option("--all", "every", is_flag=True, help="Instead of FUNC: count the answers for all functions.")
@click.option("--boot", is_flag=True, help="Register a probe on every offset (--all: two a function) and compare.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def list_probeable_offsets(
    names: Sequence[str], vm: str, sample: int | None, every: bool, boot: bool, as_json: bool
) -> int:
    """List every offset of a kernel function: whether a probe may be there, the errno where not, and why.

    Without --boot the answers come from the kernel's files and no guest is started. Exit status: 0; 1 if --boot finds
    an offset at which the kernel's answer is another one.
    """
    if sum(map(bool, (names, sample, every))) != 1:
        mend = f"for example: {paths.PROGRAM} sites vfs_read --vm x86_64-debian"
        raise UsageError("give FUNC, --sample N or --all", mend=mend)
    recipe = select([vm])[0]
    bus = Bus()
    board = Board(bus, False, lambda line: click.echo(line, err=True))
    context = BuildContext.in_cache(bus)
    if every:
        ((tally, proof, notes),) = board.run_calls_then_close(partial(_counted, recipe, boot, context))
        click.echo(sites_command_output.tally_as_json(tally) if as_json else sites_command_output.tally_table(tally))
    else:
        ((functions, proof, notes),) = board.run_calls_then_close(
            partial(_found, recipe, names, sample or 0, boot, context)
        )
        answers = proof.errno_by_offset if proof else {}
        if as_json:
            listed = [sites_command_output.function_as_json_object(each, answers) for each in functions]
            click.echo(json.dumps(listed, indent=2))
        elif names:
            click.echo("\n\n".join(sites_command_output.sites_table(each, answers) for each in functions))
    for note in notes:
        click.echo(note, err=as_json)
    return CELL_FAILED if proof and proof.differences else 0


def _found(
    recipe: Recipe, names: Sequence[str], sample: int, boot: bool, context: BuildContext
) -> tuple[list[Function], Proof | None, list[str]]:
    """Return the functions, the proof, and lines for a person."""
    image = prepare(recipe, context)
    answers = FunctionSites(image)
    began = time.monotonic()
    chosen = names or [symbol.name for symbol in evenly_spread(text_functions_named_once(answers.kernel), sample)]
    functions, notes = [], []
    with context.bus.step(recipe.name, "sites") as step:
        for number, name in enumerate(chosen):
            step.publish_progress(name, number / len(chosen))
            try:
                functions.append(answers.describe_function(name))
            except PinpointError as error:
                # A sample leaves out what is no code; an error of the host, such as an interruption, ends the command.
                if names or isinstance(error, HostError):
                    raise
                notes.append(f"left out: {error}")
    offsets = sum(len(each.instructions) + len(each.answers_inside_instructions) for each in functions)
    notes += _about_files(answers, len(functions), offsets, began)
    if not boot:
        return functions, None, notes
    proof, more = _proof(image, [each for function in functions for each in predictions_of_function(function)], context)
    return functions, proof, notes + more


def _counted(recipe: Recipe, boot: bool, context: BuildContext) -> tuple[Tally, Proof | None, list[str]]:
    """Return the counted answers of all functions, the proof, and lines to print."""
    image = prepare(recipe, context)
    answers = FunctionSites(image)
    began = time.monotonic()
    with context.bus.step(recipe.name, "sites") as step:
        tally = tally_functions(answers, text_functions_named_once(answers.kernel), step)
    notes = [f"left out: {each}" for each in tally.left_out[:_SHOWN]]
    if len(tally.left_out) > _SHOWN:
        notes.append(f"and {len(tally.left_out) - _SHOWN} more left out")
    notes += _about_files(answers, tally.functions, tally.offsets, began)
    if not boot:
        return tally, None, notes
    proof, more = _proof(image, tally.tried, context)
    return tally, proof, notes + more


def _about_files(answers: FunctionSites, functions: int, offsets: int, began: float) -> list[str]:
    seconds = time.monotonic() - began
    counted = f"{functions} functions, {offsets} offsets from the files of {answers.image.release} in {seconds:.1f} s"
    if answers.reserved.blacklist_found_in_file:
        return [counted]
    return ["the files have no list of the functions that the kernel refuses; only --boot finds them", counted]


def _proof(image: Image, predictions: Sequence[Prediction], context: BuildContext) -> tuple[Proof, list[str]]:
    """Compare the predictions with a kernel; return the proof, and lines to print."""
    name = image.recipe.name
    log = paths.cache() / "logs" / f"sites-{name}.log"
    began = time.monotonic()
    with guests.start_guest(image, context, log) as guest, context.bus.step(name, "registering") as step:
        proof = prove_sites.compare_kernel_answers_with_predictions(guest, predictions, step)
    notes = [str(each) for each in proof.differences[:_SHOWN]]
    if len(proof.differences) > _SHOWN:
        notes.append(f"and {len(proof.differences) - _SHOWN} more")
    notes.append(
        f"the kernel was tried at {len(proof.errno_by_offset)} offsets in {time.monotonic() - began:.1f} s: "
        f"{proof.agreed_count} as the files show ({proof.agreement_percent:.2f} % of those that the files decide), "
        f"{proof.settled_by_kernel_count} that the files leave open, {len(proof.differences)} otherwise"
    )
    return proof, notes

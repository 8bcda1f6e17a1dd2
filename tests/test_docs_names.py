"""Each name in the docs is one that the code has: functions, classes, their attributes, and the fixtures of cases."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from docs_pages import PAGES, blocks, inline_code

from harness.core import paths

# A kernel file, such as kernel/kprobes.c: a name in the same paragraph, list item or table row is the kernel's.
_KERNEL_FILE = re.compile(r"\b(?:arch|kernel|mm|lib|include|scripts|fs)/[\w./-]+\.[chS]\b|\b[a-z_-]+\.c\b")
_DEFINED = re.compile(r"^def (\w+)", re.MULTILINE)
_C_CALL = re.compile(r"\b([a-z_]\w*) ?\(")
_CALL = re.compile(r"(?<![\w.-])(\.?[A-Za-z_][\w.]*)\(")
_ATTRIBUTE = re.compile(r"(?<![\w./-])([A-Za-z_]\w*)\.(\w+)")
_CLASS = re.compile(r"[A-Z][a-z]\w+")
# Names of others, which stand alone in the docs: the kernel's, the C library's and Python's.
_OTHERS = {
    *("arch_adjust_kprobe_addr", "arch_populate_kprobe_blacklist", "idempotent_init_module", "load_module"),
    *("parisc_terminate", "populate_kprobe_blacklist", "prepare_emulation", "__copy_instruction"),
    *("reset_current_kprobe", "runtime_const_mask_32", "perf_event_open", "uprobe_register", "dump_stack", "count"),
}
_SUFFIXES = {"py", "c", "h", "txt", "md", "gz", "json", "jsonl", "toml", "html", "xml", "log", "ko", "symvers"}
_OTHER_CLASSES = {"Enter", "Esc", "Kbuild", "Makefile", "Module"}


@dataclass(frozen=True, slots=True)
class Code:
    """The names of the code: functions, the members of each class, the class of each fixture."""

    functions: set[str] = field(default_factory=set)
    classes: dict[str, set[str]] = field(default_factory=dict)
    fixtures: dict[str, str] = field(default_factory=dict)


def _definitions(node: ast.Module | ast.ClassDef) -> Iterator[ast.stmt]:
    """Yield the functions and classes of a file, and those in classes; not those in functions."""
    for child in node.body:
        if isinstance(child, ast.ClassDef):
            yield from _definitions(child)
        yield child


def _members(node: ast.ClassDef) -> Iterator[str]:
    for child in ast.walk(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield child.name
        elif isinstance(child, ast.AnnAssign) and isinstance(child.target, ast.Name):
            yield child.target.id
        elif isinstance(child, ast.Assign):
            yield from (target.id for target in child.targets if isinstance(target, ast.Name))
        elif isinstance(child, ast.Attribute) and isinstance(child.ctx, ast.Store):
            yield child.attr


def _returned_class(node: ast.FunctionDef) -> str:
    """Return the class that a fixture is an instance of, or "" if it is a function or a built-in."""
    returned = node.returns
    if isinstance(returned, ast.Subscript) and ast.unparse(returned.value) in ("Iterator", "Generator"):
        returned = returned.slice
    return returned.id if isinstance(returned, ast.Name) else ""


@functools.cache
def code() -> Code:
    """Read the names of harness, cases and probes."""
    found, bases = Code(), dict[str, list[str]]()
    for path in (paths.PROJECT / "harness").rglob("*.py"):
        for node in _definitions(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                found.classes.setdefault(node.name, set()).update(_members(node))
                bases[node.name] = [base.id for base in node.bases if isinstance(base, ast.Name)]
            elif isinstance(node, ast.FunctionDef):
                found.functions.add(node.name)
                if any(isinstance(each, ast.Attribute) and each.attr == "fixture" for each in node.decorator_list):
                    found.fixtures[node.name] = _returned_class(node)
    for _ in range(3):
        for name, parents in bases.items():
            found.classes[name] |= {member for parent in parents for member in found.classes.get(parent, ())}
    # Only names of functions are needed of the cases, so they are not parsed.
    for path in paths.CASES.rglob("*.py"):
        found.functions.update(_DEFINED.findall(path.read_text()))
    for path in [*paths.PROBES.rglob("*.[ch]"), *(paths.PROJECT / "vm_images").rglob("*.patch")]:
        found.functions.update(_C_CALL.findall(path.read_text()))
    return found


def _row_class(block: str) -> str:
    """Return the class of the fixture that this row of the table of fixtures describes, or ""."""
    first = re.match(r"\| `(\w+)` \|", block)
    return code().fixtures.get(first[1], "") if first else ""


def wrong_in(text: str, block: str) -> Iterator[str]:
    """Yield the names in one piece of code that the code does not have; `block` is the text around it."""
    known = code()
    row = known.classes.get(_row_class(block))
    of_kernel = bool(_KERNEL_FILE.search(re.sub(r"(?<![\w/])(?:probes|harness|cases|tests)/[\w./*-]+", "", block)))
    for owner, member in _ATTRIBUTE.findall(text):
        if member in _SUFFIXES:
            continue
        owner_class = known.fixtures.get(owner) or (owner if owner in known.classes else "")
        if owner_class in known.classes and member not in known.classes[owner_class]:
            yield f"{owner}.{member}"
        elif _CLASS.fullmatch(owner) and not owner_class and owner not in _OTHER_CLASSES:
            yield owner
    for called in _CALL.findall(text):
        name = called.rpartition(".")[2]
        if called.startswith("pytest."):
            continue
        if row is not None and "." not in called and not name[0].isupper() and name not in known.fixtures:
            if name not in row:
                yield f"{called}()"
        elif name not in known.functions and name not in known.classes and name not in _OTHERS and not of_kernel:
            yield f"{called}()"
    if _CLASS.fullmatch(text) and text not in known.classes and text not in _OTHER_CLASSES and not of_kernel:
        yield text


def names_in_python(text: str) -> Iterator[str]:
    """Yield the names in an example that the code does not have: also names that are used and not assigned."""
    tree = ast.parse(text)
    names = [node for node in ast.walk(tree) if isinstance(node, ast.Name)]
    assigned = {node.id for node in names if isinstance(node.ctx, ast.Store)}
    given = {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    known = code()
    there = assigned | given | known.functions | known.classes.keys() | {"pytest", "source"}
    yield from (name.id for name in names if name.id not in there)
    members = known.functions.union(*known.classes.values())
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr not in members | {"mark", "mutants", "requires"}:
            yield node.attr
        elif isinstance(node, ast.keyword) and node.arg not in members | {"relocation", "hits", "ask"}:
            yield str(node.arg)


@pytest.mark.parametrize("page", PAGES)
def test_each_name_of_a_page_exists(page: str) -> None:
    wrong = []
    for kind, block in blocks(page):
        if kind == "python":
            wrong += [*names_in_python(block), *wrong_in(re.sub(r'"[^"]*"|#.*|\bdef \w+', '""', block), "")]
        elif kind == "text":
            wrong += [name for text in inline_code(block) for name in wrong_in(text, block)]
    assert not wrong, f"{page}: the code has no {', '.join(dict.fromkeys(wrong))}"


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("`starts_x86_32()` is in `decode_capstone.py`", "starts_x86_32()"),
        ("`Mutant.in_force` in `harness/landing/mutants.py`", "Mutant.in_force"),
        ("a budget (`Guest.budget()`)", "Guest.budget"),
        ("a member of `CallForm`", "CallForm"),
        ("| `address_converter` | `prove(sites)` |", "prove()"),
        ("`kprobes.attempt(spec, ...)`: the errno", "kprobes.attempt"),
        ("`verdict_of()` in `harness/matrix/cells/cell_phases_and_verdict.py`", "verdict_of()"),
    ],
)
def test_an_old_sentence_is_found(text: str, wrong: str) -> None:
    assert wrong in [name for piece in inline_code(text) for name in wrong_in(piece, text)]


@pytest.mark.parametrize(
    ("example", "wrong"),
    [
        ("order = Order(targets=['pinpoint_target'])", "Order"),
        ("with kprobes.on(site, relocation=by_section) as probes:\n    pass", "by_section"),
        ("def test(layout):\n    layout.straight(1)", "straight"),
    ],
)
def test_an_old_example_is_found(example: str, wrong: str) -> None:
    assert wrong in list(names_in_python(example))

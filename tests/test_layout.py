"""The house: what imports what, how long modules are, what classes are called."""

import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from foundation.checkout import ROOT

# An arrow points from a later row to an earlier one, never within a row or up.
ROWS = (
    ("foundation",),
    ("lightning_modules", "datamodules"),
    ("diagnosis",),
    ("callbacks",),
    ("experiment",),
    ("studies",),
    ("train", "search", "compare"),
)
RANK = {name: rank for rank, names in enumerate(ROWS) for name in names}
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for name in RANK
    for path in (
        [ROOT / f"{name}.py"] if (ROOT / f"{name}.py").is_file() else ROOT.glob(f"{name}/**/*.py")
    )
}


def imports(module: str) -> Iterator[str]:
    """The modules of this project that one imports, wherever in its text."""
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [
                full if (full := f"{node.module}.{alias.name}") in MODULES else node.module
                for alias in node.names
            ]
        yield from (name for name in names if name in MODULES)


@pytest.mark.parametrize("module", sorted(MODULES))
def test_arrows_run_one_way(module: str) -> None:
    own = module.partition(".")[0]
    for name in imports(module):
        other = name.partition(".")[0]
        assert own == other or RANK[other] < RANK[own], f"{module} imports {name}"


def test_there_is_no_circle() -> None:
    graph = {module: set(imports(module)) - {module} for module in MODULES}
    for package in [name for name in MODULES if MODULES[name].name == "__init__.py"]:
        for module in MODULES:  # a module of a package runs the package's __init__ first
            if module.startswith(f"{package}.") and module in graph[package]:
                assert package not in graph[module], f"{module} imports its own package"
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " → ".join([*path[path.index(module) :], module])
        if module not in done:
            for name in graph[module]:
                visit(name, (*path, module))
            done.add(module)

    for module in graph:
        visit(module, ())


def test_modules_are_short_and_command_lines_shorter() -> None:
    lines = {name: len(path.read_text().splitlines()) for name, path in MODULES.items()}
    assert {name: n for name, n in lines.items() if n > 450} == {}
    assert {name: lines[name] for name in ROWS[-1] if lines[name] > 40} == {}


def test_no_two_classes_have_one_name() -> None:
    names = Counter(
        node.name
        for path in MODULES.values()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef)
    )
    assert [name for name, count in names.items() if count > 1] == []


def test_diagnosis_knows_no_trainer() -> None:
    for module, path in MODULES.items():
        if module.startswith("diagnosis"):
            names = {
                alias for node in ast.walk(ast.parse(path.read_text())) for alias in _names(node)
            }
            assert "Trainer" not in names, module


def _names(node: ast.AST) -> list[str]:
    if isinstance(node, ast.ImportFrom):
        return [alias.name for alias in node.names]
    return [node.attr] if isinstance(node, ast.Attribute) else []


def test_docstrings_do_not_begin_as_questions() -> None:
    asks = re.compile(r'^\s*"""(What|Whether|Which|Where|How|Who|Why|When)\b.*', re.MULTILINE)
    found = [
        f"{name}: {m[0].strip()}"
        for name, p in MODULES.items()
        for m in asks.finditer(p.read_text())
    ]
    assert found == []


def test_there_is_no_utils() -> None:
    assert not [path for path in Path(ROOT).glob("*/**/*util*.py") if ".venv" not in path.parts]

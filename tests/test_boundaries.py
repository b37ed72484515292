"""Imports go one way, as ARCHITECTURE.md says, and a few things are nowhere."""

import ast
import copy
import re
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import grimp
import pytest

PACKAGES = [name for name in ("gateway", "export", "embedded", "bulk", "loadtest", "pictogram") if Path(name).is_dir()]
GRAPH = grimp.build_graph(
    PACKAGES[0], *PACKAGES[1:], include_external_packages=True, exclude_type_checking_imports=False, cache_dir=None
)
OURS = {module for module in GRAPH.modules if module.partition(".")[0] in PACKAGES}
HEAVY = ("torch", "transformers", "sentence_transformers")
NEED_THEM = {f"loadtest.experiments.{name}" for name in ("bench", "growth", "outputs", "parity", "vision")}
"""They compare with the models as torch runs them. Operators run the others, and need only a server."""
PAGE = Path("ARCHITECTURE.md").read_text()
LAYERS = {
    package: [[name.strip() for name in line.split("|")] for line in block.splitlines()]
    for package, block in re.findall(r'^```layers(?: title="(\w+)")?\n(.*?)^```$', PAGE, re.MULTILINE | re.DOTALL)
}
IMPORTERS = {
    imported: importers.split(", ")
    for block in re.findall(r"^```importers\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    for imported, importers in re.findall(r"^(\S+): (.+)$", block, re.MULTILINE)
}


def inside(module: str, *packages: str) -> bool:
    return any(f"{module}.".startswith(f"{package}.") for package in packages)


def nodes(module: str) -> Iterator[ast.AST]:
    path = Path(*module.split("."))
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return ast.walk(ast.parse(file.read_text()))


def readers_of_the_environment() -> set[str]:
    found = set()
    for module in OURS:
        for node in nodes(module):
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "os":
                names = {node.attr}
            elif isinstance(node, ast.ImportFrom) and node.module == "os":
                names = {alias.name for alias in node.names}
            else:
                continue
            if names & {"environ", "environb", "getenv", "getenvb"}:
                found.add(module)
    return found


def importers(module: str) -> set[str]:
    """Of a module, or of anything in it."""
    if module == "os.environ":
        return readers_of_the_environment()
    imported = {one for one in GRAPH.modules if inside(one, module)}
    return {one for each in imported for one in GRAPH.find_modules_that_directly_import(each)}


@pytest.fixture(scope="module")
def when_imported() -> grimp.ImportGraph:
    """The graph without imports inside functions."""
    graph = copy.deepcopy(GRAPH)
    for module in OURS:
        functions = [node for node in nodes(module) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
        inside_functions = {inner.lineno for each in functions for inner in ast.walk(each) if hasattr(inner, "lineno")}
        for imported in graph.find_modules_directly_imported_by(module):
            details = graph.get_import_details(importer=module, imported=imported)
            if all(one["line_number"] in inside_functions for one in details):
                graph.remove_import(importer=module, imported=imported)
    return graph


def test_no_import_leads_in_a_circle() -> None:
    try:
        TopologicalSorter({module: GRAPH.find_modules_directly_imported_by(module) for module in OURS}).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(reversed(error.args[1])))


def test_packages_have_layers() -> None:
    assert {name for line in LAYERS[""] for name in line} == set(PACKAGES)


@pytest.mark.parametrize("package", LAYERS)
def test_layers_name_every_module(package: str) -> None:
    modules = {child.rpartition(".")[2] for child in GRAPH.find_children(package)} if package else set(PACKAGES)
    assert {name for line in LAYERS[package] for name in line} == modules


@pytest.mark.parametrize("package", LAYERS)
def test_imports_go_down(package: str) -> None:
    wrong = GRAPH.find_illegal_dependencies_for_layers(
        layers=[grimp.Layer(*line, independent=True) for line in LAYERS[package]],
        containers={package} if package else None,
    )
    chains = [
        " -> ".join([*sorted(route.heads), *route.middle, *sorted(route.tails)])
        for one in wrong
        for route in one.routes
    ]
    assert not chains


@pytest.mark.parametrize("module", IMPORTERS)
def test_only_these_import(module: str) -> None:
    allowed = IMPORTERS[module]
    assert all(one in GRAPH.modules for one in allowed), "all that are named exist"
    found = {one for one in importers(module) if not inside(one, module)}
    assert found, f"nothing imports {module}"
    assert not {one for one in found if not inside(one, *allowed)}


def test_nothing_imports_the_tests() -> None:
    assert not importers("tests")


def chains(graph: grimp.ImportGraph, tool: str) -> list[tuple[str, ...]]:
    return [chain for library in HEAVY if (chain := graph.find_shortest_chain(tool, library))]


@pytest.mark.parametrize("tool", sorted(GRAPH.find_children("loadtest.experiments") - NEED_THEM))
def test_tools_of_operators_do_not_import_torch(tool: str, when_imported: grimp.ImportGraph) -> None:
    assert not chains(when_imported, tool)


@pytest.mark.parametrize("tool", sorted(NEED_THEM))
def test_tools_that_compare_with_torch_import_it(tool: str, when_imported: grimp.ImportGraph) -> None:
    assert chains(when_imported, tool)


def test_nothing_is_mocked() -> None:
    words = ("unittest." + "mock", "monkeypatch." + "setattr", "Magic" + "Mock")
    assert not [file for file in Path("tests").rglob("*.py") if any(word in file.read_text() for word in words)]

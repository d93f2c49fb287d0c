"""Who may import whom: a folder, or a module beside the folders, imports from lower floors only."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "longattn_hf"

FLOORS = (
    {"attention", "columns", "files", "lazy_names", "method", "pages", "rows"},
    {"hub", "selection"},
    {"model", "report"},
    {"scoring", "windows"},
    {"baselines"},
    {"pipeline"},
    {"explore", "ray", "watch"},
    {"commands"},
    {"__main__"},
)
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS, 1) for room in rooms}


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imported_by(source: str) -> set[str]:
    """The modules of the package that a module's text imports, at its top, inside functions and for type checkers."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide the direction"
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    # names that a package hands on count as its own
    return {name.removeprefix("longattn_hf.") for name in names if name.startswith("longattn_hf.")} & MODULES.keys()


def test_every_room_has_its_floor():
    rooms = {name.split(".")[0] for name in MODULES if name}
    assert rooms == FLOOR_OF.keys()


def wrong_way(module: str, source: str) -> set[str]:
    """What a module imports of its own floor or of a higher one, its own room aside."""
    room = module.split(".")[0]
    others = {name for name in imported_by(source) if name.split(".")[0] != room}
    return {name for name in others if FLOOR_OF[name.split(".")[0]] >= FLOOR_OF[room]}


@pytest.mark.parametrize("module", [name for name in MODULES if name])
def test_a_module_imports_from_lower_floors_only(module):
    assert not wrong_way(module, MODULES[module].read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("selection.cut", "from longattn_hf.report.facts import Report"),
        ("hub.release", "import longattn_hf.pipeline.folder"),
        ("windows", "def f():\n    from longattn_hf.scoring import longattn"),
        ("pipeline.run", "from longattn_hf.explore.session import Session"),
        ("model.location", "from longattn_hf.report import card"),
    ],
)
def test_an_import_that_is_turned_round_is_noticed(module, line):
    assert wrong_way(module, f"{MODULES[module].read_text(encoding='utf-8')}\n{line}\n")


def order_of(sources: dict[str, str]) -> list[str]:
    """All modules, each behind those that it imports, directly or not; an error where some import one another."""
    graph = {name: imported_by(source) - {name} for name, source in sources.items()}
    # to import a module is to import the packages that it lies in
    for name in graph:
        graph[name] |= {
            package
            for imported in graph[name]
            for package in ({imported.rpartition(".")[0]} & sources.keys())
            if package and not name.startswith(f"{package}.") and package != name
        }
    return list(TopologicalSorter(graph).static_order())


def test_no_modules_import_one_another_not_even_by_way_of_others():
    sources = {name: path.read_text(encoding="utf-8") for name, path in MODULES.items() if name}
    order = order_of(sources)
    assert order.index("columns") < order.index("windows") < order.index("pipeline.run")
    sources["pipeline.folder"] += "\nfrom longattn_hf.pipeline.run import build\n"
    with pytest.raises(CycleError):
        order_of(sources)


@pytest.mark.parametrize("room", ["attention", "selection", "pages"])
def test_attention_selection_and_pages_know_nothing_of_models(room):
    forbidden = {"transformers", "huggingface_hub", "accelerate"} | (
        {"torch"} if room != "attention" else {"datasets"}
    )
    for module, path in MODULES.items():
        if module.split(".")[0] == room:
            tree = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            names = [alias.name for node in tree if isinstance(node, ast.Import) for alias in node.names]
            tree = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            names += [node.module for node in tree if isinstance(node, ast.ImportFrom)]
            assert not {name.split(".")[0] for name in names} & forbidden, module


@pytest.mark.parametrize(
    ("module", "unloaded"),
    [
        ("longattn_hf", {"torch", "transformers", "datasets"}),
        ("longattn_hf.report.card", {"torch", "transformers"}),
        ("longattn_hf.hub.publishing", {"torch", "transformers"}),
        ("longattn_hf.watch", {"torch", "transformers"}),
        ("longattn_hf.pipeline.run", {"torch"}),
    ],
)
def test_what_needs_no_model_loads_none(module, unloaded, run_python):
    program = f"import sys; sys.modules['triton'] = None; import {module}; print(*sys.modules)"
    assert not unloaded & set(run_python(program).stdout.split())

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "longattn_hf"

# a module imports only from rows above its own
ROWS = [
    {
        "columns",
        "lazy_names",
        "rows",
        "shards",
        "conventions",
        "null_model",
        "markdown",
        "card_merge",
        "hub_access",
        "page",
        "heartbeat",
        "histograms",
        "attention_call",
        "rope",
        "attention.reference",
        "attention.blockwise",
        "attention.fused",
    },
    {"remote", "config", "packaged_models", "baselines.base"},
    {"checkpoint"},
    {"gguf_checkpoint", "one_layer", "layer_files", "baselines.language_model", "baselines.simple", "echo"},
    {"attention", "windows", "first_layer"},
    {"sampling", "map_scores", "baselines.token_measure"},
    {"scoring", "standardisation", "baselines.ladm", "baselines.loss_gain", "baselines.prolong"},
    {"selection", "sharding", "card_metadata", "staging", "baselines", "baselines.deep_attention"},
    {"report", "plots", "card", "release", "sources", "output", "token_view", "scored_corpus", "watch"},
    {"publishing", "html_report", "space", "explore", "explore.facts", "explore.recipe"},
    {"explore.session"},
    {"explore.app"},
    {"explore.__main__"},
]
ROW_OF = {module: row for row, modules in enumerate(ROWS) for module in modules}


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def imported_modules(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: relative imports hide the direction"
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        found |= {name.removeprefix("longattn_hf.") for name in names if name.startswith("longattn_hf.")}
    return found & ROW_OF.keys()


MODULES = sorted(path for path in PACKAGE.rglob("*.py") if module_name(path))


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_a_module_imports_only_from_rows_above_its_own(path):
    module = module_name(path)
    assert module in ROW_OF, f"{module} stands in no row of the import table"
    wrong = {name for name in imported_modules(path) if ROW_OF[name] >= ROW_OF[module]} - {module}
    assert not wrong, f"{module} (row {ROW_OF[module]}) imports {wrong}"


@pytest.mark.parametrize("module", ["attention.reference", "attention.blockwise", "attention.fused", "windows"])
def test_the_pure_modules_know_nothing_of_the_hub(module):
    path = PACKAGE / (module.replace(".", "/") + ".py")
    if module == "windows":
        forbidden = {"huggingface_hub"}
    else:
        forbidden = {"transformers", "datasets", "huggingface_hub", "accelerate"}
    tree = ast.parse(path.read_text())
    top = {
        name.split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([a.name for a in node.names] if isinstance(node, ast.Import) else [node.module])
    }
    assert not top & forbidden


def test_importing_the_package_is_quick_and_needs_neither_torch_nor_triton():
    program = (
        "import sys, time; start = time.perf_counter(); sys.modules['triton'] = None; import longattn_hf; "
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules; "
        "assert time.perf_counter() - start < 2; print(longattn_hf.__version__)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=PACKAGE.parent)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "0.1.0"

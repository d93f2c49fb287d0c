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
        "hub",
        "model",
        "pages",
        "pipeline",
        "report",
        "scoring",
        "selection",
        "lazy_names",
        "scoring.rows",
        "pipeline.shards",
        "method",
        "pages.text",
        "hub.card_merge",
        "hub.client",
        "pages.page",
        "pipeline.heartbeat",
        "selection.summary",
        "model.attention_hooks",
        "model.rope",
        "attention.reference",
        "attention.blockwise",
        "attention.fused",
        "model.device",
    },
    {"model.byte_ranges", "pipeline.config", "model.location", "scoring.base"},
    {"model.tensors", "model.tokenizer"},
    {
        "model.one_layer",
        "model.layer_files",
        "model.language_model",
        "baselines.simple",
        "scoring.echo",
    },
    {"attention.api", "windows", "model.first_layer"},
    {"attention", "attention.sampled", "pipeline.demo_corpus", "scoring.map_scores", "baselines.token_scorer"},
    {"scoring.longattn", "selection.standardisation", "baselines.ladm", "baselines.loss_gain", "baselines.prolong"},
    {
        "selection.cut",
        "pipeline.stages",
        "report.card_metadata",
        "hub.staging",
        "baselines",
        "baselines.deep_attention",
    },
    {
        "report.facts",
        "report.figures",
        "report.card",
        "hub.release",
        "pipeline.sources",
        "pipeline.output",
        "explore.token_view",
        "explore.scored_corpus",
        "watch",
    },
    {"hub.publishing", "report.html_report", "hub.space", "explore", "explore.views", "pipeline.recipe"},
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

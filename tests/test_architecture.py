"""The folder tree is the architecture: imports go downwards only."""

import ast
from pathlib import Path

import tightwire

ROOT = Path(tightwire.__file__).parent
if not (ROOT / "kv" / "strategy.py").exists():  # an editable install: the package's files are in the source tree
    ROOT = Path(__file__).parent.parent / "src" / "tightwire"

ALLOWED = {
    "errors": set(),
    "core": {"errors"},
    "net": {"errors", "core"},
    "kv": {"errors", "core", "net", "_kernels"},
    "ccl": {"errors", "core", "net", "_ring", "_rounds"},
    "report": {"core"},
    "cli": {"errors", "core", "net", "kv", "ccl", "report"},
}
ENGINES = {"vllm", "transformers", "lmcache", "sglang"}


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module)
            if node.module == "tightwire":
                found |= {f"tightwire.{alias.name}" for alias in node.names if alias.name != "__version__"}
    return found


def modules() -> list[Path]:
    return [path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py"]


def test_layers_import_downwards_only() -> None:
    seen = set()
    for path in modules():
        layer = path.relative_to(ROOT).parts[0].removesuffix(".py")
        seen.add(layer)
        for name in imports(path):
            if name.startswith("tightwire."):
                target = name.split(".")[1]
                assert target == layer or target in ALLOWED[layer], f"{path} imports {name}"
    assert seen >= set(ALLOWED)


def test_only_engine_adapters_import_an_engine() -> None:
    allowed = {ROOT / "kv" / "engines", ROOT / "kv" / "refmodel", ROOT / "kv" / "demo"}
    for path in modules():
        if not any(folder in path.parents for folder in allowed):
            assert not {name.split(".")[0] for name in imports(path)} & ENGINES, path


def test_every_module_says_what_it_is() -> None:
    for path in modules():
        assert ast.get_docstring(ast.parse(path.read_text())), f"{path} has no docstring"

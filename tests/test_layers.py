"""The import contract: who may know whom, and what `import fewbits` costs.

Checked on the syntax trees of all files, imports inside functions and under TYPE_CHECKING included: a type that a room
may not name is as much a dependency as a call.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "fewbits"
MODELS = Path(__file__).parent.parent / "examples" / "models"

# room -> the rooms, or single modules, that it may import; "" is the package itself, for its version.
# Whoever adds a room says here what it may know.
ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "registry": {"errors"},
    "lazy": set(),
    "formats": {"errors", "registry", "lazy"},
    "qtensor": {"errors", "lazy", "formats.base"},
    "activations": {"errors", "registry", "formats"},
    "kernels": {"errors", "lazy", "registry", "formats", "qtensor"},
    "methods": {
        "errors",
        "registry",
        "lazy",
        "formats.base",
        "formats.exact",
        "formats.overrides",
        "qtensor",
        "workers",
    },
    "transforms": {"errors", "registry", "lazy", "formats.base", "formats.overrides", "models"},
    "calibration": {"errors", "kernels", "registry", "lazy", "workers"},
    "way": {"errors", "methods", "transforms"},
    "choosing": {"errors", "checkpoints.fields", "formats", "planning", "reporting.record", "way"},
    "rotating": {
        "errors",
        "kernels",
        "checkpoints",
        "evaluation.gguf_config",
        "models",
        "reporting.record",
        "transforms",
        "workers",
    },
    "calibrated": {
        "locking",
        "",
        "activations",
        "lazy",
        "qtensor",
        "models",
        "transforms",
        "verification",
        "way",
        "errors",
        "formats",
        "kernels",
        "methods",
        "calibration",
        "checkpoints",
        "encoding",
        "evaluation",
        "fused",
        "reporting.measures",
        "reporting.record",
        "request",
        "workers",
    },
    "tomlfile": set(),
    "models": {"errors", "registry", "tomlfile"},
    "planning": {"errors", "tomlfile", "registry", "activations", "formats", "sites"},
    "checkpoints": {"errors", "locking", "mapped", "kernels.module", "registry", "formats", "qtensor", "models"},
    "mixes": {"errors", "checkpoints.base", "planning", "sites"},
    "inspection": {"errors", "checkpoints", "hub.headers", "hub.locating", "mixes"},
    "explanation": {"errors", "lazy", "formats", "kernels", "checkpoints"},
    "reporting": {
        "errors",
        "activations",
        "formats",
        "evaluation",
        "explanation",
        "inspection",
        "mixes",
        "speed",
        "training.fitting.history",  # for types
    },
    "evaluation": {
        "",
        "errors",
        "registry",
        "activations",
        "formats",
        "qtensor",
        "kernels",
        "checkpoints",
        "models",
        "inspection",
        "hub.locating",
    },
    "engine": {
        "checkpoints",
        "errors",
        "evaluation.gguf_config",
        "formats",
        "hub.locating",
        "kernels",
        "memory",
        "models",
        "qtensor",
        "request",
        "workers",
    },
    "speed": {"engine", "errors", "hub.locating", "inspection", "kernels", "memory", "request", "workers"},
    "testing": {"errors", "lazy", "registry", "formats", "qtensor", "kernels", "methods", "checkpoints"},
    "sites": {"errors", "checkpoints.base"},
    "mapped": set(),
    "digest": {"mapped", "workers"},
    "request": {"reporting.record"},  # for types
    "quantizing": {
        "digest",
        "errors",
        "hub",
        "layers",
        "models",
        "onnx_activations",
        "pipeline",
        "reporting.card",
        "reporting.record",
        "request",
        "workers",
    },
    "hub": {
        "errors",
        "checkpoints.base",
        "checkpoints.dialects",
        "checkpoints.jsonfile",
        "checkpoints.quoting",
        "checkpoints.safetensors",
        "digest",
        "models",
        "reporting.card",
        "reporting.figures",
        "reporting.record",
    },
    "memory": set(),
    "locking": set(),
    "versions": set(),
    "workers": set(),
    "preflight": {"errors", "formats", "kernels", "reporting.record", "workers"},
    # The stranger: it reads source and output again, and shares neither the writer nor the methods nor the plan.
    "verification": {
        "errors",
        "formats",
        "kernels",
        "models",
        "mapped",
        "digest",
        "workers",
        "checkpoints.base",
        "checkpoints.configuration",
        "checkpoints.fields",
        "checkpoints.gguf",
        "checkpoints.gguf_parts",
        "checkpoints.older_names",
        "checkpoints.onnx.file",
        "checkpoints.safetensors",
    },
    "fused": {"formats"},
    "encoding": {"errors", "formats", "kernels", "methods", "checkpoints", "reporting.record", "workers"},
    "expecting": {
        "errors",
        "checkpoints.base",
        "reporting.record",
        "verification",
    },
    "gguf_target": {
        "digest",
        "expecting",
        "planning",
        "checkpoints",
        "preflight",
        "reporting",
        "verification",
        "workers",
    },
    "onnx_activations": {
        "errors",
        "kernels",
        "calibration",
        "checkpoints",
        "digest",
        "formats",
        "memory",
        "planning",
        "preflight",
        "reporting",
        "request",
        "verification",
        "versions",
        "workers",
    },
    "onnx_target": {
        "errors",
        "digest",
        "expecting",
        "planning",
        "checkpoints",
        "preflight",
        "reporting",
        "verification",
        "workers",
    },
    "targets": {
        "digest",
        "expecting",
        "gguf_target",
        "onnx_target",
        "errors",
        "formats",
        "planning",
        "checkpoints",
        "preflight",
        "reporting",
        "verification",
        "workers",
    },
    "assignment": {
        "activations",
        "errors",
        "formats",
        "kernels",
        "methods",
        "planning",
        "qtensor",
        "checkpoints",
        "sites",
        "reporting.record",
    },
    "pipeline": {
        "hub.locating",
        "choosing",
        "calibrated.session",
        "rotating",
        "way",
        "errors",
        "formats",
        "kernels",
        "methods",
        "planning",
        "checkpoints",
        "assignment",
        "digest",
        "encoding",
        "fused",
        "onnx_target",
        "targets",
        "memory",
        "versions",
        "workers",
        "preflight",
        "verification",
        "reporting",
        "request",
    },
    "layers": {
        "activations",
        "assignment",
        "checkpoints",
        "choosing",
        "encoding",
        "engine.spans",
        "errors",
        "formats",
        "kernels",
        "memory",
        "methods",
        "models",
        "planning",
        "preflight",
        "qtensor",
        "reporting",
        "request",
        "verification",
        "versions",
        "way",
        "workers",
    },
    "transformers": {"loading"},  # what transformers is told of us, when somebody imports it
    "loading": {
        "activations",
        "assignment",
        "checkpoints",
        "choosing",
        "errors",
        "evaluation",
        "formats",
        "hub.locating",
        "kernels",
        "layers",
        "mapped",
        "memory",
        "models",
        "planning",
        "qtensor",
        "reporting.record",
        "targets",
        "verification",
        "workers",
    },
    "static": {
        "errors",
        "registry",
        "calibration.observers",
        "calibration.stats",
        "checkpoints.onnx.package",
        "checkpoints.partial_file",
        "formats",
    },
    "training": {
        "locking",
        "activations",
        "assignment",
        "calibration.observers",
        "calibration.stats",
        "checkpoints",
        "conversion",
        "engine.conversation",
        "errors",
        "evaluation",
        "formats",
        "hub.locating",
        "inspection",
        "kernels",
        "layers",
        "loading",
        "memory",
        "methods",
        "models",
        "planning",
        "qtensor",
        "quantizing",
        "reporting.card",
        "reporting.record",
        "reporting.training_record",
        "request",
        "versions",
        "workers",
    },
    "conversion": {
        "errors",
        "checkpoints",
        "digest",
        "encoding",
        "expecting",
        "formats",
        "gguf_target",
        "hub.locating",
        "kernels",
        "memory",
        "methods",
        "onnx_target",
        "planning",
        "preflight",
        "reporting",
        "request",
        "targets",
        "verification",
        "versions",
        "workers",
    },
    "cli": {
        "",
        "conversion",
        "engine",
        "errors",
        "formats",
        "quantizing",
        "request",
        "choosing",
        "evaluation",
        "explanation",
        "hub.locating",
        "hub.push",
        "inspection",
        "planning",
        "reporting",
        "speed",
        "training",
        "way",
    },
    "": {
        "conversion",
        "engine",
        "errors",
        "formats",
        "quantizing",
        "evaluation",
        "explanation",
        "hub.push",
        "inspection",
        "loading",
        "speed",
        "training",
        "transformers",
        "static",
    },
    "__main__": {"cli"},
}


def test_every_room_imports_only_what_it_may_know() -> None:
    forbidden = [
        f"{module} imports {imported}"
        for module, imported in all_edges()
        if not allowed(room_of(module), relative(imported))
    ]

    assert forbidden == []


def test_every_room_is_in_the_contract() -> None:
    rooms = {room_of(module) for module, _ in all_edges()} | {
        entry.name for entry in SOURCE.iterdir() if (entry / "__init__.py").exists()
    }

    assert rooms - set(ALLOWED) == set()


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("fewbits.methods.nearest", "from fewbits.formats.kquant import Q4K"),
        ("fewbits.methods.nearest", "from fewbits.formats import kquant"),
        ("fewbits.methods.nearest", "def f():\n    import fewbits.formats.kquant"),
        ("fewbits.formats.kquant", "from fewbits.methods.nearest import solve"),
        ("fewbits.formats.kquant", "from ..methods import nearest"),
        ("fewbits.checkpoints.gguf", "from fewbits.methods import METHODS"),
        ("fewbits.reporting.card", "from fewbits.pipeline import quantize"),
        ("fewbits.pipeline", "from fewbits.cli.main import main"),
        ("fewbits.verification.files", "from fewbits.checkpoints.gguf_writer import GGUFWriter"),
        ("fewbits.verification.files", "from fewbits.checkpoints import huggingface"),
        ("fewbits.inspection", "if TYPE_CHECKING:\n    from fewbits.cli import main"),
    ],
)
def test_the_checker_sees_a_planted_violation(module: str, line: str) -> None:
    found = [
        imported for imported in imports_of(ast.parse(line), module) if not allowed(room_of(module), relative(imported))
    ]

    assert found


def test_importing_fewbits_is_light_and_silent() -> None:
    code = """
import sys
seen = []
sys.addaudithook(lambda event, args: seen.append(event) if event.startswith(("socket.", "subprocess.")) else None)
import fewbits, threading
heavy = {"numpy", "torch", "transformers", "onnx", "gguf", "rich", "click", "huggingface_hub", "tokenizers"}
print(sorted(heavy & set(sys.modules)), seen, threading.active_count())
"""
    assert run_python(code) == "[] [] 1"


def test_the_public_verbs_are_there() -> None:
    code = """
import fewbits
from fewbits import compare, inspect, quantize
print(all(map(callable, (quantize, compare, inspect))), fewbits.__all__ == dir(fewbits))
"""
    assert run_python(code) == "True True"


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["quantize", "--help"],
        ["quantize", str(MODELS / "pocket-llama"), "-o", "OUT", "--quiet", "--dry-run"],
        ["quantize", str(MODELS / "pocket-llama"), "-o", "OUT", "--quiet"],
        ["quantize", str(MODELS / "pocket-llama"), "-o", "OUT", "--json"],
        ["inspect", str(MODELS / "pocket-llama")],
        ["formats"],
        ["formats", "Q4_K", "--json"],
    ],
    ids=lambda arguments: " ".join(a for a in arguments if "/" not in a),
)
def test_the_command_line_loads_no_framework(arguments: list[str], tmp_path: Path) -> None:
    arguments = [str(tmp_path / "out.gguf") if a == "OUT" else a for a in arguments]
    code = f"""
import contextlib, io, sys
from fewbits.cli.main import main
with contextlib.redirect_stdout(io.StringIO()):
    code = main({arguments!r})
print(code, sorted({{"torch", "transformers", "onnx", "requests"}} & set(sys.modules)))
"""
    assert run_python(code) == "0 []"


def test_a_command_loads_only_the_formats_it_names(tmp_path: Path) -> None:
    arguments = ["quantize", str(MODELS / "pocket-llama"), "-o", str(tmp_path / "o.gguf"), "--to", "Q4_0", "--quiet"]
    code = f"""
import sys
from fewbits.cli.main import main
main({arguments!r})
names = "floats", "legacy", "kquant_symmetric", "kquant_pairs", "iq1", "iquant", "tiny", "codebooks", "learned", "fp8"
print(*(name for name in names if f"fewbits.formats.{{name}}" in sys.modules))
"""
    assert run_python(code) == "floats legacy kquant_symmetric"


def test_hashing_of_the_source_begins_before_the_pipeline_is_loaded(tmp_path: Path) -> None:
    code = f"""
import sys
from fewbits import digest, quantize
def begin(self, path, really=digest.Digests.begin):
    print(path.name, "fewbits.pipeline" in sys.modules, end="; ")
    return really(self, path)
digest.Digests.begin = begin
quantize({str(MODELS / "pocket-llama")!r}, {str(tmp_path / "o.gguf")!r})
"""
    assert run_python(code).startswith("model.safetensors False; config.json True;")


def all_edges() -> Iterator[tuple[str, str]]:
    """(importing module, imported module of fewbits) for every file of the package."""
    for file in sorted(SOURCE.rglob("*.py")):
        parts = ("fewbits", *file.relative_to(SOURCE).with_suffix("").parts)
        module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        for imported in imports_of(
            ast.parse(file.read_text(encoding="utf-8")), module, package=file.stem == "__init__"
        ):
            yield module, imported


def imports_of(tree: ast.AST, module: str, *, package: bool = False) -> Iterator[str]:
    """Every module of fewbits that a syntax tree imports; `from p import m` counts as p.m where that is a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "fewbits")
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = module.split(".")[: len(module.split(".")) - node.level + package]
                base = ".".join([*parents, base] if base else parents)
            if base.split(".")[0] == "fewbits":
                for alias in node.names:
                    yield f"{base}.{alias.name}" if is_module(f"{base}.{alias.name}") else base


def is_module(dotted: str) -> bool:
    path = SOURCE.joinpath(*dotted.split(".")[1:])
    # The planted violations name files that a reader of this test expects, whether or not they exist yet.
    return path.is_dir() or path.with_suffix(".py").is_file() or dotted.endswith((".kquant", ".nearest"))


def room_of(module: str) -> str:
    return relative(module).split(".")[0]


def relative(module: str) -> str:
    return module.removeprefix("fewbits").removeprefix(".")


def allowed(room: str, imported: str) -> bool:
    """Whether `room` may import the module `imported`, written without the leading "fewbits."."""
    may = ALLOWED.get(room, set())
    parents = [".".join(imported.split(".")[: n + 1]) for n in range(imported.count(".") + 1)]
    return parents[0] == room or any(parent in may for parent in parents)


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()

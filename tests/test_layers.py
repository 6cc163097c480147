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

from references.room_contract import ALLOWED

SOURCE = Path(__file__).parent.parent / "src" / "fewbits"
MODELS = Path(__file__).parent.parent / "examples" / "models"


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
        ("fewbits.verification.fields", "from fewbits.verification.matrices import Allowance"),
        ("fewbits.verification.dialects", "from fewbits.kernels import decode_rows"),
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
    """The room of a module, or the part of it that the contract names."""
    room, *parts = relative(module).split(".")
    part = ".".join([room, *parts[:1]])
    return part if part in ALLOWED else room


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

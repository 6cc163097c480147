"""Write docs/recipes.md from the recipes; a test fails when it is out of date."""

from __future__ import annotations

import sys
from math import prod
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "src"))

from fewbits import planning  # noqa: E402
from fewbits.checkpoints.base import Conversion, Placement, StoredTensor, Value  # noqa: E402
from fewbits.checkpoints.ggml_types import GGML_TYPES  # noqa: E402
from fewbits.planning import Recipe  # noqa: E402
from fewbits.planning.wanting import wants_importance  # noqa: E402
from fewbits.sites import Site, find_sites  # noqa: E402

DOCUMENT = ROOT / "docs" / "recipes.md"

_HEAD = """# Recipes

The table is written by `scripts/recipes_document.py` from `src/fewbits/planning/recipes`. A recipe is a list of rules,
and the first one that is true of a tensor says its format. The rules of llama.cpp's mixes give each tensor the type
that `llama-quantize` gives it, models with experts, grouped queries and fused matrices included; norms, biases, routers
and small tables stay in 16 or 32 bits. `fewbits quantize --to NAME` takes any of these names, in any case.

*Bits per weight* and *GB* are those of all tensors of Llama 3 8B. Recipes that *want* an importance matrix are poor
without one (see below).

| recipe | bits per weight | GB | wants | what it is |
|---|---|---|---|---|
"""

_ALGORITHMS = """
## Known algorithms

These make a model directory (an output without an ending). Embedding and output matrix stay in 16 bits. `--method`
beside one that chooses codes by itself is refused unless it says the same.

| recipe | codes chosen by | inputs rounded | what it is |
|---|---|---|---|
"""

_TAIL = """
## Change a few tensors

`--tensor` gives the tensors that a pattern names another format, before any rule of the recipe; it may be repeated, and
the first pattern that matches wins. Patterns are globs on the names that `fewbits inspect` prints; the ending `.weight`
may be left out.

```
fewbits quantize SOURCE -o OUT.gguf --to Q4_K_M --tensor 'blk.*.ffn_down=Q6_K' --tensor output=Q8_0
```

A pattern that matches nothing is refused, and so is a format that does not fit a tensor's width: what you name is never
replaced. The preview and the card list what you changed. All other tensors get what the recipe gives them (where
`llama-quantize --tensor-type` counts the layers anew without those that were named).

In Python: `fewbits.quantize(SOURCE, OUT, to="Q4_K_M", tensors={"blk.*.ffn_down": "Q6_K"}, importance="imatrix.gguf")`.

## Write a recipe

`--to path/to/mine.toml` takes a file of your own:

```toml
extend = "Q4_K_M"                # a recipe from the table above; your rules come before its own

[[rule]]
match = "blk.*.ffn_down"         # one glob on names or a list; a pattern that matches nothing is refused
layers = "0-3,28-31"             # numbers, or a choice by name (see below)
format = "Q6_K"

[[rule]]
kinds = ["token_embd", "output"] # see below
experts = ">=8"                  # a number, or a comparison with one
format = "Q8_0"
```

Without `extend` the last rule has to be for every matrix: `[[rule]]` with nothing but `format`.

| key of a rule | true of a tensor when |
|---|---|
| `match` | its name matches one of these globs |
| `kinds` | it is one of these (an expert's matrix is of the kind of its part, a tied embedding is an output): KINDS |
| `layers` | its layer is one of these numbers, or its place is in the choice: CHOICES |
| `models` | the model is one of this choice: MODELS |
| `architectures` | the architecture, as GGUF files call it, is one of these |
| `experts` | the number of experts compares so |
| `group` | the number of query heads that share one head of keys and values compares so |
| `stacked` | the tensor does (or does not) hold several matrices, one per expert |
| `importance` | an importance matrix is (or is not) given |
| `nominal_fits` | its width is (or is not) a multiple of the nominal format's span |

`activation = "int8_token"` (or `"int8_token_asym"`, `"int8_group"`, `"int8_token_split"`, `"fp8_token"`) in a rule
rounds the inputs of these matrices while the model runs, each token by itself, where they are matrices of layers and
not in 16 bits; `method` beside `name` says how codes are chosen, as `--method` does.

`exact = true` in a rule refuses a format that does not fit a width; it is what rules with `match` do unless they say
`exact = false`. Other rules fall back to a wider format there, as llama.cpp does, and the preview says so. `name`,
`nominal` (the format that shares are counted against), `description` and `file_type` (llama.cpp's name of the mix) may
be stated too.

## Importance

`--importance FILE` reads what llama.cpp's `llama-imatrix` measured on a text (its GGUF form or the older `.dat`): the
mean square of what each column of a matrix is multiplied with. Formats that search for their parameters then weigh
errors by it, as `llama-quantize --imatrix` does, each expert by its own. Tensors that the file does not know are
weighed evenly, which the preview says. Make one with

```
llama-imatrix -m MODEL-F16.gguf -f TEXT -o imatrix.gguf
```

`llama-quantize` refuses the recipes that want one without it. fewbits does them, and says what that costs.
"""

_SPANS = {t.name: (t.span, t.span_bytes) for t in GGML_TYPES.values()} | {"Q1_0": (128, 18), "Q2_0": (64, 18)}
"""Columns and bytes of a span, for formats that are not registered too."""


def llama_3_8b() -> dict[str, Site]:
    """The tensors of Llama 3 8B, without weights."""
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (128256, 4096), "output.weight": (128256, 4096)}
    shapes["output_norm.weight"] = (4096,)
    parts = {"attn_q": (4096, 4096), "attn_k": (1024, 4096), "attn_v": (1024, 4096), "attn_output": (4096, 4096)}
    parts |= {"ffn_gate": (14336, 4096), "ffn_up": (14336, 4096), "ffn_down": (4096, 14336)}
    norms = {"attn_norm": (4096,), "ffn_norm": (4096,)}
    for layer in range(32):
        shapes |= {f"blk.{layer}.{name}.weight": shape for name, shape in {**parts, **norms}.items()}
    nothing = np.empty(0, np.uint8)
    placements = tuple(Placement(name, StoredTensor(name, "F16", shape, nothing)) for name, shape in shapes.items())
    facts = {"block_count": 32, "attention.head_count": 32, "attention.head_count_kv": 8}
    metadata = {f"llama.{key}": Value(value, "uint32") for key, value in facts.items()}
    return find_sites(Conversion("llama", metadata, placements, files=()))


def _format(recipe: Recipe, site: Site) -> str:
    if site.kind == "kept":
        return "F32"
    return next(rule.format for rule in recipe.rules if rule.matches(site))


def _row(recipe: Recipe, sites: dict[str, Site]) -> tuple[float, str]:
    """Bits, to sort by, and the line of the table."""
    bits = 0.0
    for site in sites.values():
        span, size = _SPANS[_format(recipe, site)]
        bits += 8 * size / span * prod(site.shape)
    wants = any(wants_importance(recipe.name, _format(recipe, site), site) for site in sites.values())
    weights = sum(prod(site.shape) for site in sites.values())
    names = " ".join(f"`{name}`" for name in (recipe.name, *recipe.aliases))
    return (
        bits,
        f"| {names} | {bits / weights:.3f} | {bits / 8e9:.2f} | {'yes' if wants else ''} | {recipe.description} |",
    )


def document() -> str:
    """The whole document."""
    from fewbits.planning.rule import BY_NUMBER, LAYERS, MODELS
    from fewbits.sites import KINDS

    sites = llama_3_8b()
    rows = "\n".join(
        line for _, line in sorted((_row(planning.get(n), sites) for n in planning.recipes()), reverse=True)
    )
    lists = {"KINDS": (*KINDS, "other"), "CHOICES": (*LAYERS, BY_NUMBER), "MODELS": MODELS}
    tail = _TAIL
    for word, known in lists.items():
        tail = tail.replace(word, ", ".join(f"`{name}`" for name in known))
    known = "\n".join(_algorithm(planning.get(name)) for name in planning.algorithms())
    return f"{_HEAD}{rows}\n{_ALGORITHMS}{known}\n{tail}"


def _algorithm(recipe: Recipe) -> str:
    inputs = ", ".join(recipe.activations) or "no"
    return f"| `{recipe.name}` | {recipe.method or 'what is asked for'} | {inputs} | {recipe.description} |"


if __name__ == "__main__":
    DOCUMENT.write_text(document(), encoding="utf-8")

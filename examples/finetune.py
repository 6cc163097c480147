"""Teach the embedded model a few answers by an adapter on a base of 4 bits, and hear it before and after.

    python examples/finetune.py [OUT]

What is printed: what the model answers as it is, the loss before and after on questions that it learned, and what it
answers with the adapter. In OUT (by default a folder that is removed again) lies the adapter as peft's, and the same
for llama.cpp. Everything is seeded and nothing is downloaded; `pip install 'fewbits[train]'` brings what is needed.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import fewbits
from fewbits.training import Reading, Settings, load_adapter

MODEL = Path(__file__).parent / "models" / "pocket-llama"
COLOURS = {"sky": "blue", "grass": "green", "snow": "white", "coal": "black", "blood": "red", "lemon": "yellow"}


def lines() -> str:
    """Questions and answers, one JSON object per line."""
    pairs = [(f"Q: What colour is the {thing}?\nA:", f" {colour}") for thing, colour in COLOURS.items()]
    return "\n".join(json.dumps({"prompt": prompt, "completion": completion}) for prompt, completion in pairs)


def answer(network: Any, words: Any, thing: str) -> str:
    """What the network says first about the colour of a thing."""
    asked = words(f"Q: What colour is the {thing}?\nA:", return_tensors="pt")
    said = network.generate(**asked, max_new_tokens=4, do_sample=False, pad_token_id=words.pad_token_id)
    return str(words.decode(said[0, asked["input_ids"].shape[1] :], skip_special_tokens=True)).strip().split("\n")[0]


def main(output: Path) -> None:
    """Train, and tell."""
    data = output / "colours.jsonl"
    data.write_text(lines(), encoding="utf-8")
    words = fewbits.load_tokenizer(MODEL)
    base = fewbits.load(MODEL, to="nf4")
    before = {thing: answer(base, words, thing) for thing in COLOURS}

    record = fewbits.finetune(
        MODEL,
        output / "adapter",
        base="nf4",
        data=Reading(data, validation=data, batch=6),  # it is to know these by heart
        settings=Settings(steps=30, learning_rate=1e-2),
        gguf=output / "adapter.gguf",
    )
    adapted = load_adapter(base, output / "adapter")
    print(f"loss {record.loss_before:.3f} -> {record.loss_after:.3f}, {record.preview.trained} numbers learned")
    for thing, colour in COLOURS.items():
        print(f"{thing}: {before[thing]!r} -> {answer(adapted, words, thing)!r} ({colour})")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as folder:
            main(Path(folder))

"""Small models of random weights that can reveal a mistake: wide weights, and no norm or bias left at its start value.

At transformers' own initializer_range a wrong RoPE moves the logits by almost nothing; at 0.1 it moves them far.
"""

from __future__ import annotations

import pydoc_data.topics
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
_UPPER, _LOWER, _ENDING = (
    r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]",
    r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
)
_FIRST = r"[^\r\n\p{L}\p{N}]?"
GPT4O = (
    f"{_FIRST}{_UPPER}*{_LOWER}+{_ENDING}|{_FIRST}{_UPPER}+{_LOWER}*{_ENDING}"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")

HARD_TEXT = (
    "Hello world! It's 2024-11-05, 3.14159 and 1234567; we've DON'T they'LL.\n\n\tdef f(x: int) -> str:\n"
    "        return f'{x!r:>{10}}'  # naïve café Ångström — “quotes” … 漢字かな交じり文 한국어 Привет мир\n"
    "\r\n  🚀👩‍👩‍👧‍👦 ½ ² ½  \u00a0nbsp\u3000wide   trailing   \n\n\n x\t\ty 'sS 'Tis _under_score_ a/b\\c <tag> &amp;"
)
"""Digits, code, scripts, emoji, contractions and every kind of white space."""


def manual() -> str:
    """The reference manual that every CPython carries."""
    return "\n".join(pydoc_data.topics.topics.values())


def byte_level_tokenizer(
    *,
    pattern: str | None = None,
    steps: tuple[str, ...] = (),
    ignore_merges: bool = False,
    nfc: bool = False,
    bos: str | None = None,
    size: int = 900,
) -> Tokenizer:
    """A byte-level BPE tokenizer trained on the manual; `bos` is put before every text.

    It cuts by `pattern`, or by `steps` as pretokenizers.toml names them; with neither as GPT-2 does.
    """
    tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if pattern is not None:
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
    if steps:
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([_cut(step) for step in steps])
    if nfc:
        tokenizer.normalizer = normalizers.NFC()
    trainer = trainers.BpeTrainer(
        vocab_size=size, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator([manual()[:200_000]], trainer)
    tokenizer.decoder = decoders.ByteLevel()
    # transformers' Qwen classes add <|endoftext|> where it is missing, beyond the embedding.
    special = ("<|endoftext|>", "<|begin|>", "<|im_end|>")
    tokenizer.add_special_tokens([AddedToken(text, special=True) for text in special])
    tokenizer.add_tokens([AddedToken("<think>", special=False, normalized=False)])
    if bos is not None:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=[bos, "$A"], special_tokens=[(bos, tokenizer.token_to_id(bos))]
        )
    return tokenizer


def _cut(step: str) -> pre_tokenizers.PreTokenizer:
    name, _, pattern = step.partition(": ")
    known = {
        "Split isolated": lambda: pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
        "Digits": lambda: pre_tokenizers.Digits(individual_digits=True),
        "Digits in groups": lambda: pre_tokenizers.Digits(individual_digits=False),
        "Punctuation contiguous": lambda: pre_tokenizers.Punctuation("contiguous"),
        "ByteLevel": lambda: pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        "ByteLevel regex": lambda: pre_tokenizers.ByteLevel(add_prefix_space=False),
    }
    return known[name]()


def save_byte_level(directory: Path, tokenizer: Tokenizer) -> None:
    """Save a tokenizer as transformers does."""
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<|begin|>", eos_token="<|im_end|>"
    ).save_pretrained(directory)


def save_pieces(directory: Path, *, size: int = 700) -> None:
    """Train a SentencePiece BPE model with byte fallback, as Llama's and Mistral's are, into tokenizer.model."""
    import sentencepiece

    directory.mkdir(parents=True, exist_ok=True)
    text = directory / "training.txt"
    text.write_text(manual()[:200_000], encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(text),
        model_prefix=str(directory / "tokenizer"),
        vocab_size=size,
        model_type="bpe",
        byte_fallback=True,
        split_digits=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
        max_sentence_length=20_000,
        minloglevel=2,
    )
    text.unlink()
    (directory / "tokenizer.vocab").unlink()


def save_model(directory: Path, config: Any, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> None:
    """Save a random model of `config`, its weights rounded to float16 so that an F16 file loses nothing."""
    torch.manual_seed(seed)
    config.initializer_range = 0.1
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1 or name.endswith("_bias"):
                start = 1.0 if ("norm" in name or ".ln_" in name) and not name.endswith("bias") else 0.0
                parameter.copy_(start + 0.3 * torch.randn_like(parameter))
            # At this small width attention would look everywhere alike, and a wrong position would not matter.
            if (
                "q_proj" in name
                or "k_proj" in name
                or "qkv_proj" in name
                or "kv_a_proj_with_mqa" in name  # of which RoPE's part alone is not normed
                or "c_attn.weight" in name
                or "query_key_value.weight" in name
            ):
                parameter.mul_(3.0)
            parameter.copy_(parameter.half().float())
        for name, buffer in model.named_buffers():
            if name.endswith("e_score_correction_bias"):
                buffer.copy_(0.1 * torch.randn_like(buffer).half().float())
    model.to(dtype).save_pretrained(directory)


def small_config(kind: type, *, rows: int, **changes: Any) -> Any:
    """A configuration of two layers with grouped-query attention; `rows` is the size of the vocabulary."""
    values = {
        "vocab_size": rows,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
        "tie_word_embeddings": False,
    }
    return kind(**{**values, **changes})

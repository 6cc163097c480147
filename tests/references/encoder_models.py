"""Small random encoders that can reveal a mistake, with WordPiece tokenizers trained here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from references.random_models import HARD_TEXT, byte_level_tokenizer, manual

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def word_piece_tokenizer(*, size: int = 600, cased: bool = False, strip_accents: bool | None = None) -> Tokenizer:
    """A WordPiece tokenizer trained on the manual; special tokens do not stand where BERT's do."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=not cased, strip_accents=strip_accents)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=size, special_tokens=SPECIAL, show_progress=False)
    tokenizer.train_from_iterator([manual()[:100_000], HARD_TEXT], trainer)
    around = [(text, tokenizer.token_to_id(text)) for text in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=around
    )
    return tokenizer


def save_word_pieces(directory: Path, tokenizer: Tokenizer) -> None:
    """Save a tokenizer as transformers does."""
    names = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
    special: dict[str, Any] = {f"{role}_token": text for role, text in names.items()}
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(directory)


def bert_config(rows: int, **changes: Any) -> Any:
    """Three layers of 64 columns."""
    values: dict[str, Any] = {
        "vocab_size": rows,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": 128,
        "initializer_range": 0.1,
    }
    return transformers.BertConfig(**{**values, **changes})


def roberta_config(rows: int, **changes: Any) -> Any:
    """The same with positions that begin behind the number of the token that pads."""
    values = {**bert_config(rows).to_dict(), "type_vocab_size": 1, "pad_token_id": 4, "max_position_embeddings": 133}
    for key in ("model_type", "architectures", "transformers_version"):
        values.pop(key, None)
    return transformers.RobertaConfig(**{**values, "bos_token_id": 0, "eos_token_id": 1, **changes})


def save_nomic(
    directory: Path, kind: str = "NomicBertModel", *, pooling: str | None = "mean_tokens", seed: int = 0
) -> Path:
    """A directory with a random encoder of Nomic's."""
    torch.manual_seed(seed)
    tokenizer = word_piece_tokenizer()
    values = bert_config(tokenizer.get_vocab_size()).to_dict()
    for key in ("model_type", "architectures", "transformers_version", "hidden_act"):
        values.pop(key, None)
    model = getattr(transformers, kind)(transformers.NomicBertConfig(**values))
    disturb(model)
    model.save_pretrained(directory)
    save_word_pieces(directory, tokenizer)
    if pooling is not None:
        save_pooling(directory, pooling)
    return directory


def roberta_tokenizer() -> Tokenizer:
    """Byte-level BPE between two tokens, as RoBERTa's."""
    tokenizer = byte_level_tokenizer(size=600)
    tokenizer.add_special_tokens(["<s>", "</s>", "<unk>", "<mask>", "<pad>"])
    around = [(text, tokenizer.token_to_id(text)) for text in ("</s>", "<s>")]
    tokenizer.post_processor = processors.RobertaProcessing(*around, trim_offsets=True, add_prefix_space=False)
    return tokenizer


def save_roberta(
    directory: Path, kind: str = "RobertaModel", *, pooling: str | None = "mean_tokens", seed: int = 0
) -> Path:
    """A directory with a random RoBERTa."""
    torch.manual_seed(seed)
    tokenizer = roberta_tokenizer()
    model = getattr(transformers, kind)(roberta_config(tokenizer.get_vocab_size()))
    disturb(model)
    model.save_pretrained(directory)
    special = {f"{role}_token": f"<{role}>" for role in ("unk", "mask", "pad")}
    special |= {"bos_token": "<s>", "eos_token": "</s>", "cls_token": "<s>", "sep_token": "</s>"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(directory)
    if pooling is not None:
        save_pooling(directory, pooling)
    return directory


def disturb(model: Any) -> None:
    """No norm or bias stays at its start value, attention looks somewhere, and float16 can hold every number."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                start = 1.0 if name.lower().endswith("norm.weight") else 0.0
                parameter.copy_(start + 0.3 * torch.randn_like(parameter))
            if any(part in name for part in (".query.", ".key.", ".q_proj.", ".k_proj.")):
                parameter.mul_(3.0)
            parameter.copy_(parameter.half().float())


def save_pooling(directory: Path, mode: str) -> None:
    """What sentence encoders say of their pooling; `mode` is sentence-transformers' word ("mean_tokens", ...)."""
    steps = ("Transformer", ""), ("Pooling", "1_Pooling"), ("Normalize", "2_Normalize")
    listed = [
        {"idx": n, "name": str(n), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for n, (kind, path) in enumerate(steps)
    ]
    (directory / "modules.json").write_text(json.dumps(listed), encoding="utf-8")
    (directory / "1_Pooling").mkdir(exist_ok=True)
    modes = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens")
    stated = {"word_embedding_dimension": 64, **{f"pooling_mode_{each}": each == mode for each in modes}}
    (directory / "1_Pooling" / "config.json").write_text(json.dumps(stated), encoding="utf-8")


def save_encoder(
    directory: Path,
    kind: str = "BertModel",
    *,
    pooling: str | None = "mean_tokens",
    tokenizer: Tokenizer | None = None,
    seed: int = 0,
    **changes: Any,
) -> Path:
    """A directory with a random encoder of the class `kind`, its tokenizer, and its pooling if any."""
    torch.manual_seed(seed)
    tokenizer = tokenizer or word_piece_tokenizer()
    model = getattr(transformers, kind)(bert_config(tokenizer.get_vocab_size(), **changes))
    disturb(model)
    model.save_pretrained(directory)
    save_word_pieces(directory, tokenizer)
    if pooling is not None:
        save_pooling(directory, pooling)
    return directory

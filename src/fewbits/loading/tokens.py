"""`fewbits.load_tokenizer`: the tokenizer of a stored model, out of a directory or out of a GGUF file's metadata."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from fewbits.errors import LoadingError
from fewbits.evaluation.encoder_vocabulary import EncoderVocabulary
from fewbits.evaluation.model_files import open_model
from fewbits.evaluation.vocabularies import GGUFVocabulary, HuggingFaceVocabulary
from fewbits.hub.locating import locate

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def load_tokenizer(source: str | Path, *, revision: str | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer of the model at a path or of a hub id, as transformers has tokenizers; of `revision` of a hub id.

    A GGUF file's is rebuilt from its metadata. Raises a FewbitsError, one sentence, where there is none.
    """
    vocabulary = open_model(Path(locate(str(source), revision=revision).path).expanduser()).vocabulary()
    tokens = vocabulary.tokens if isinstance(vocabulary, EncoderVocabulary) else vocabulary
    if isinstance(tokens, HuggingFaceVocabulary):
        found: PreTrainedTokenizerBase = tokens.tokenizer
        return found
    if isinstance(tokens, GGUFVocabulary):
        rebuilt: PreTrainedTokenizerBase = tokens.tokenizer()
        return rebuilt
    raise LoadingError(f"{source}: its tokens are of a kind that no tokenizer of transformers is made of.")

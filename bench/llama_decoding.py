"""What llama.cpp's `llama-bench` does, through the C functions in llama-cpp-python: for machines that have only that.

    python bench/llama_decoding.py -m MODEL.gguf [-p 256] [-n 32] [-d 0] [-r 5] [-t 2] [--no-warmup]

The options mean what they mean there, and what is printed is the part of its JSON that bench/generate.py reads. Random
tokens: a prompt of -p in batches of 2048, -n tokens one by one, each on an empty context or behind -d others, which are
evaluated once; a turn before, unmeasured. Weights are mapped, repacked where llama.cpp likes to, and the cache is F16.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import random
import time
from collections.abc import Callable, Iterator

import llama_cpp

BATCH = 2048


def main() -> None:
    """Print a JSON list, one object per test."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--model", required=True)
    parser.add_argument("-p", "--n-prompt", type=int, default=256)
    parser.add_argument("-n", "--n-gen", type=int, default=32)
    parser.add_argument("-d", "--n-depth", type=int, default=0)
    parser.add_argument("-r", "--repetitions", type=int, default=5)
    parser.add_argument("-t", "--threads", type=int, default=2)
    parser.add_argument("-o", "--output", choices=["json"], default="json")
    parser.add_argument("--no-warmup", action="store_true")
    args = parser.parse_args()
    silent = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)(lambda level, text, data: None)
    llama_cpp.llama_log_set(silent, None)
    llama_cpp.llama_backend_init()
    model = llama_cpp.llama_model_load_from_file(args.model.encode(), llama_cpp.llama_model_default_params())
    if not model:
        raise SystemExit(f"{args.model} cannot be loaded.")
    print(json.dumps(list(tests(model, args)), indent=1))


def tests(model: llama_cpp.llama_model_p, args: argparse.Namespace) -> Iterator[dict[str, object]]:
    """The prompt's figures and those of generation, each in a context of its own."""
    for prompt, generated in ((args.n_prompt, 0), (0, args.n_gen)):
        if prompt or generated:
            decoder = Decoder(model, args.n_depth + prompt + generated, args.threads)
            rates = decoder.rates(prompt, generated, args)
            decoder.free()
            sizes = {"n_prompt": prompt, "n_gen": generated, "n_depth": args.n_depth}
            yield {**sizes, "samples_ts": rates, "avg_ts": sum(rates) / len(rates)}


class Decoder:
    """A context of llama.cpp, fed with random tokens."""

    def __init__(self, model: llama_cpp.llama_model_p, context: int, threads: int) -> None:
        options = llama_cpp.llama_context_default_params()
        options.n_ctx, options.n_batch, options.n_ubatch = context, BATCH, 512
        options.n_threads = options.n_threads_batch = threads
        options.no_perf = True
        self._context = llama_cpp.llama_init_from_model(model, options)
        if not self._context:
            raise SystemExit("llama.cpp cannot make a context.")
        self._vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
        self._random = random.Random(0)

    def free(self) -> None:
        """Give the memory back."""
        llama_cpp.llama_free(self._context)

    def rates(self, prompt: int, generated: int, args: argparse.Namespace) -> list[float]:
        """Tokens per second of each repetition."""
        work: Callable[[], None] = (lambda: self.at_once(prompt)) if prompt else (lambda: self.one_by_one(generated))
        if not args.no_warmup:
            self.at_once(prompt) if prompt else self.one_by_one(1)
        self.keep(0)
        self.at_once(args.n_depth)
        rates = []
        for _ in range(args.repetitions):
            self.keep(args.n_depth)
            began = time.perf_counter()
            work()
            rates.append((prompt + generated) / (time.perf_counter() - began))
        return rates

    def keep(self, length: int) -> None:
        """Forget all but the first `length` tokens."""
        llama_cpp.llama_memory_seq_rm(llama_cpp.llama_get_memory(self._context), 0, length, -1)

    def at_once(self, count: int) -> None:
        """Evaluate a prompt."""
        for start in range(0, count, BATCH):
            self._decode([self._random.randrange(self._vocabulary) for _ in range(min(BATCH, count - start))])
        llama_cpp.llama_synchronize(self._context)

    def one_by_one(self, count: int) -> None:
        """Evaluate tokens, each after the last."""
        for _ in range(count):
            self._decode([self._random.randrange(self._vocabulary)])
            llama_cpp.llama_synchronize(self._context)

    def _decode(self, tokens: list[int]) -> None:
        held = (llama_cpp.llama_token * len(tokens))(*tokens)
        code = llama_cpp.llama_decode(self._context, llama_cpp.llama_batch_get_one(held, len(tokens)))
        if code:
            raise SystemExit(f"llama_decode failed with code {code}.")


if __name__ == "__main__":
    main()

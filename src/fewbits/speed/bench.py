"""How fast the engine runs a model, and what that takes: time, memory and energy, beside what memory allows at most."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fewbits import engine
from fewbits.errors import EvaluationError
from fewbits.hub.locating import locate
from fewbits.kernels import isa
from fewbits.memory import peak_resident_memory
from fewbits.request import Progress, silent
from fewbits.speed.bandwidth import read_bandwidth
from fewbits.speed.energy import EnergyMeter, find_counters
from fewbits.speed.rates import Rate, Timing, Workload
from fewbits.speed.traffic import weights_read
from fewbits.workers import usable_threads

if TYPE_CHECKING:
    from fewbits.engine import Model, Session


@dataclass(frozen=True)
class Loaded:
    """A model, ready to run, and what that took."""

    model: Model
    session: Session
    seconds: float
    first_token_seconds: float


@dataclass(frozen=True)
class Speed:
    """One model's figures on this machine."""

    model: str
    architecture: str
    threads: int
    isa: str
    exact: bool
    mmap: bool
    cache: str
    """How keys and values are stored."""
    context: int
    """Tokens that the cache has room for."""
    file_bytes: int
    cache_bytes: int
    peak_memory: int
    """Bytes of the process's largest resident size, mapped files included, before bandwidth was measured."""
    load_seconds: float
    first_token_seconds: float
    """From the beginning of loading to the first token's logits."""
    prompt: Rate | None
    generation: Rate | None
    bytes_per_token: int
    """Bytes that a generated token reads: weights, keys and values."""
    bandwidth: float | None
    """Bytes per second that this machine reads from memory; None where nobody asked."""
    energy_counters: tuple[str, ...]
    energy_unmeasured: str | None
    """Why there are no figures of energy."""

    @property
    def most_tokens_per_second(self) -> float | None:
        """What generation would reach if reading memory took all of its time."""
        return self.bandwidth and self.bandwidth / self.bytes_per_token

    @property
    def share_of_most(self) -> float | None:
        """The share of that which generation reached."""
        most = self.most_tokens_per_second
        return self.generation.tokens_per_second / most if most and self.generation else None

    def to_json(self) -> dict[str, Any]:
        """The figures as plain data, with the derived ones spelled out."""
        data = {**asdict(self), "energy_counters": list(self.energy_counters)}
        for name, rate in (("prompt", self.prompt), ("generation", self.generation)):
            data[name] = rate and rate.to_json()
        return {**data, "most_tokens_per_second": self.most_tokens_per_second, "share_of_most": self.share_of_most}


def bench(
    model: str | Path,
    *,
    prompt: int = 256,
    generate: int = 32,
    depth: int = 0,
    repeats: int = 5,
    warm_up: bool = True,
    threads: int | None = None,
    cache: str | None = None,
    exact: bool = False,
    mmap: bool = False,
    limit: bool = True,
    progress: Progress = silent,
) -> Speed:
    """Measure how fast the engine runs `model`, a path or a hub id, on random tokens.

    A `prompt` of tokens at once, and `generate` tokens one at a time, as a reader waits for them but without choosing
    any; each behind `depth` others, `repeats` times, after an unmeasured turn if `warm_up`; 0 leaves one of both out.
    `limit` measures how fast this machine reads memory as well. Raises EvaluationError where nothing is asked for,
    and what `fewbits.engine` raises where the model cannot be run or its context is too short. `progress` is told how
    far weights are repacked ("prepare") and how many turns are done ("bench").
    """
    work = Workload(prompt, generate, depth, repeats, warm_up)
    if not (prompt or generate):
        raise EvaluationError("there is nothing to measure: give a prompt or tokens to generate.")
    path = Path(locate(str(model)).path).expanduser()
    weights = weights_read(path)
    loaded = _load(path, work, cache, {"threads": threads, "exact": exact, "mapped": mmap}, progress)
    energy = find_counters()
    with EnergyMeter(energy.counters) as meter:
        rates = Timing(loaded.session, loaded.model.vocabulary, work, meter, partial(progress, "bench")).rates()
    peak = peak_resident_memory()
    kept = loaded.model.cached_as(cache)
    return Speed(
        model=str(model),
        architecture=loaded.model.architecture,
        threads=usable_threads(threads),
        isa=isa(),
        exact=exact,
        mmap=mmap,
        cache=kept,
        context=loaded.session.context,
        file_bytes=weights.file_bytes,
        cache_bytes=loaded.model.cache_bytes(work.context, kept),
        peak_memory=peak,
        load_seconds=loaded.seconds,
        first_token_seconds=loaded.first_token_seconds,
        prompt=rates[0],
        generation=rates[1],
        bytes_per_token=weights.bytes_per_token + loaded.model.cache_bytes(work.mean_depth, kept),
        bandwidth=read_bandwidth(usable_threads(threads)) if limit else None,
        energy_counters=tuple(counter.name for counter in energy.counters),
        energy_unmeasured=energy.unmeasured,
    )


def _load(path: Path, work: Workload, cache: str | None, options: dict[str, Any], progress: Progress) -> Loaded:
    """The model with its weights repacked and one token evaluated."""
    began = time.perf_counter()
    model = engine.load(path, **options)
    session = model.session(context=work.context, cache=cache)
    model.pack(progress)
    seconds = time.perf_counter() - began
    session.evaluate([0])
    return Loaded(model, session, seconds, time.perf_counter() - began)

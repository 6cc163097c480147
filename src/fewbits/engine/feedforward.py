"""The program of a layer's feed-forward: gated or not, or experts that tokens are sent to."""

from __future__ import annotations

from fewbits.engine.building import NOWHERE, Out, Place
from fewbits.engine.frame import Frame


def write_feedforward(frame: Frame, layer: int, source: Place, out: Place, adds: bool) -> None:
    """The feed-forward of a layer over what `source` holds, written to `out` or added to it."""
    if frame.has(layer, "ffn_gate_inp.weight"):
        _experts(frame, layer, source, out, adds)
    else:
        _dense(frame, layer, source, Out(frame.name(layer, "ffn_down.weight"), out, adds), frame.sizes.ffn)


def _dense(frame: Frame, layer: int, source: Place, down: Out, width: int, suffix: str = "") -> None:
    """A feed-forward of `width` columns; the names of its matrices end in `suffix`."""
    build, inner = frame.build, frame.at.inner
    up = Out(frame.name(layer, f"ffn_up{suffix}.weight"), inner)
    if frame.fact.gate == "own":
        gate = Out(frame.name(layer, f"ffn_gate{suffix}.weight"), inner)
        build.linear(source, gate, Out(up.weight, inner.at(width)))
    else:
        build.linear(source, up)
    _gate(frame, inner, width)
    build.linear(inner, down)


def _gate(frame: Frame, inner: Place, width: int) -> None:
    """The gate stands before what it multiplies, and its product takes its place."""
    build, fact = frame.build, frame.fact
    if fact.gate == "limited":
        build.limited_gate(inner, inner, inner.at(width), width)
        return
    up = NOWHERE if fact.gate == "none" else inner.at(width)
    build.gate(inner, inner, up, str(build.source.values[fact.activation]), width)


def _experts(frame: Frame, layer: int, source: Place, out: Place, adds: bool) -> None:
    build, sizes, at = frame.build, frame.sizes, frame.at.experts
    assert at is not None, "a model whose layers have experts says how many"
    build.linear(source, Out(frame.name(layer, "ffn_gate_inp.weight"), at.scores))
    build.route(at.scores, sizes.experts, frame.fact.expert_scores)
    build.scatter(at.source, source, sizes.hidden)
    build.expert_linear(at.source, frame.name(layer, "ffn_gate_exps.weight"), at.inner)
    build.expert_linear(at.source, frame.name(layer, "ffn_up_exps.weight"), at.inner.at(sizes.expert))
    _gate(frame, at.inner, sizes.expert)
    build.expert_linear(at.inner, frame.name(layer, "ffn_down_exps.weight"), at.out)
    if sizes.shared:
        _shared(frame, layer, source, at.shared, at.weight)
    build.gather(out, at.out, sizes.hidden, adds=adds)
    if sizes.shared:
        build.add(out, at.shared, sizes.hidden)


def _shared(frame: Frame, layer: int, source: Place, out: Place, weight: Place) -> None:
    """The expert that all tokens share, behind its own gate (Qwen2-MoE)."""
    down = Out(frame.name(layer, "ffn_down_shexp.weight"), out)
    _dense(frame, layer, source, down, frame.sizes.shared, suffix="_shexp")
    frame.build.linear(source, Out(frame.name(layer, "ffn_gate_inp_shexp.weight"), weight))
    frame.build.weigh(out, weight, frame.sizes.hidden)

"""The program of a network as the facts of its architecture put it together: logits, or an encoder's states."""

from __future__ import annotations

from collections.abc import Callable

from fewbits.engine.attention import write_attention
from fewbits.engine.building import OUTPUTS, Builder, Out, Place
from fewbits.engine.feedforward import write_feedforward
from fewbits.engine.frame import Frame, frame_of

_Part = Callable[[Frame, int, Place, Place, bool], None]
"""Writes a part of a layer: (frame, layer, what it reads, where it writes, whether it adds to what is there)."""


def write_network(build: Builder) -> Place:
    """Write the program of the model.

    Returns the place of the logits (outputs, vocabulary), of an encoder that of the states (outputs, hidden).
    """
    frame = frame_of(build)
    _embedding(frame)
    for layer in range(frame.sizes.layers):
        if frame.fact.side_by_side(build.source.values):
            _side_by_side(frame, layer)
        else:
            _one_after_another(frame, layer)
    out = _states(frame) if build.source.architecture.encoder else _logits(frame)
    build.require_all_used()
    return out


def _embedding(frame: Frame) -> None:
    build, stream = frame.build, frame.at.stream
    factor = frame.fact.embedding
    build.embed(stream, "token_embd.weight", scale=factor.of(build.source.values) if factor else 1.0)
    if build.has("token_types.weight"):
        build.add_row(stream, "token_types.weight", 0)  # a text alone is of the first type
    if build.has("position_embd.weight"):
        build.add_positions(stream, "position_embd.weight")
    if build.has("token_embd_norm.weight"):
        frame.norm(stream, stream, "token_embd_norm")


def _one_after_another(frame: Frame, layer: int) -> None:
    fact, stream = frame.fact, frame.at.stream
    _branch(frame, layer, _before_attention(frame, layer), fact.after_attention, write_attention)
    if fact.behind_attention:
        frame.norm(stream, stream, frame.name(layer, fact.behind_attention))
    _branch(frame, layer, fact.before_network, fact.after_network, write_feedforward)
    if fact.behind_network:
        frame.norm(stream, stream, frame.name(layer, fact.behind_network))


def _branch(frame: Frame, layer: int, before: str, after: str, write: _Part) -> None:
    """What a part makes of the stream, added to it."""
    source, at = _normed(frame, layer, before), frame.at
    factor = frame.fact.added.of(frame.build.source.values) if frame.fact.added else 1.0
    if not after and factor == 1.0:
        write(frame, layer, source, at.stream, True)
        return
    write(frame, layer, source, at.branch, False)
    if after:
        frame.norm(at.branch, at.branch, frame.name(layer, after))
    frame.build.add(at.stream, at.branch, frame.sizes.hidden, factor=factor)


def _side_by_side(frame: Frame, layer: int) -> None:
    """Attention and feed-forward of one stream: neither sees what the other adds."""
    at = frame.at
    write_attention(frame, layer, _normed(frame, layer, _before_attention(frame, layer)), at.branch, False)
    write_feedforward(frame, layer, _normed(frame, layer, frame.fact.before_network), at.stream, True)
    frame.build.add(at.stream, at.branch, frame.sizes.hidden)


def _before_attention(frame: Frame, layer: int) -> str:
    return next((name for name in frame.fact.before_attention if frame.has(layer, f"{name}.weight")), "")


def _normed(frame: Frame, layer: int, name: str) -> Place:
    """The stream behind the norm `name` of a layer, or as it is where there is none."""
    if not name:
        return frame.at.stream
    frame.norm(frame.at.normal, frame.at.stream, frame.name(layer, name))
    return frame.at.normal


def _states(frame: Frame) -> Place:
    states = frame.build.buffer(frame.sizes.hidden, per=OUTPUTS)
    frame.build.select(states, frame.at.stream, frame.sizes.hidden)
    return states


def _logits(frame: Frame) -> Place:
    build, fact, values = frame.build, frame.fact, frame.build.source.values
    last, logits = (build.buffer(width, per=OUTPUTS) for width in (frame.sizes.hidden, frame.sizes.vocabulary))
    build.select(last, frame.at.stream, frame.sizes.hidden)
    frame.norm(last, last, "output_norm")
    head = "output.weight" if build.has("output.weight") else "token_embd.weight"
    build.linear(last, Out(head, logits))
    factor = fact.logits.of(values) if fact.logits else 1.0
    cap = float(values.get(fact.logit_cap) or 0.0)
    if factor != 1.0 or cap:
        build.scale(logits, frame.sizes.vocabulary, factor=factor, cap=cap)
    return logits

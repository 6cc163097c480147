"""The program of a decoder: layers of attention and a gated network, as Llama has them and its relatives vary them."""

from __future__ import annotations

from dataclasses import dataclass

from fewbits.engine.building import OUTPUTS, Builder, Out, Place
from fewbits.engine.rope import frequencies


@dataclass(frozen=True)
class Widths:
    """What the configuration says of a decoder's sizes."""

    hidden: int
    ffn: int
    heads: int
    key_heads: int
    head: int
    layers: int
    epsilon: float

    @property
    def query(self) -> int:
        """Columns of all queries of a token."""
        return self.heads * self.head

    @property
    def key(self) -> int:
        """Columns of all keys of a token."""
        return self.key_heads * self.head


@dataclass(frozen=True)
class Buffers:
    """Rows of numbers that layers pass on: `stream` is the residual stream, `normal` what comes out of a norm."""

    stream: Place
    normal: Place
    query: Place
    key: Place
    value: Place
    heads: Place
    gate: Place
    up: Place


def write_decoder(build: Builder) -> Place:
    """Write the program of the model; returns the place of the logits (outputs, vocabulary)."""
    sizes = _widths(build)
    buffers = _buffers(build, sizes)
    build.embed(buffers.stream, "token_embd.weight")
    table = build.rope_table(*frequencies(build.source, build.source.values["rope_parameters"], sizes.head))
    for layer in range(sizes.layers):
        _attention(build, f"blk.{layer}.", sizes, buffers, table)
        _network(build, f"blk.{layer}.", sizes, buffers)
    return _logits(build, sizes, buffers)


def _widths(build: Builder) -> Widths:
    values = build.source.values
    return Widths(
        hidden=values["hidden_size"],
        ffn=values["intermediate_size"],
        heads=values["num_attention_heads"],
        key_heads=values["num_key_value_heads"],
        head=values["head_dim"],
        layers=values["num_hidden_layers"],
        epsilon=values[build.source.architecture.epsilon],
    )


def _buffers(build: Builder, sizes: Widths) -> Buffers:
    return Buffers(
        stream=build.buffer(sizes.hidden),
        normal=build.buffer(sizes.hidden),
        query=build.buffer(sizes.query),
        key=build.buffer(sizes.key),
        value=build.buffer(sizes.key),
        heads=build.buffer(sizes.query),
        gate=build.buffer(sizes.ffn),
        up=build.buffer(sizes.ffn),
    )


def _attention(build: Builder, layer: str, sizes: Widths, at: Buffers, table: int) -> None:
    build.rms_norm(at.normal, at.stream, f"{layer}attn_norm.weight", sizes.hidden, sizes.epsilon)
    build.linear(
        at.normal,
        Out(f"{layer}attn_q.weight", at.query),
        Out(f"{layer}attn_k.weight", at.key),
        Out(f"{layer}attn_v.weight", at.value),
    )
    build.rope(at.query, sizes.heads, sizes.head, table)
    build.rope(at.key, sizes.key_heads, sizes.head, table)
    cache = build.cache(sizes.key_heads, sizes.head)
    scale = sizes.head**-0.5
    build.attend(at.heads, at.query, at.key, at.value, heads=sizes.heads, cache=cache, scale=scale)
    build.linear(at.heads, Out(f"{layer}attn_output.weight", at.stream, adds=True))


def _network(build: Builder, layer: str, sizes: Widths, at: Buffers) -> None:
    build.rms_norm(at.normal, at.stream, f"{layer}ffn_norm.weight", sizes.hidden, sizes.epsilon)
    build.linear(at.normal, Out(f"{layer}ffn_gate.weight", at.gate), Out(f"{layer}ffn_up.weight", at.up))
    build.gate(at.gate, at.gate, at.up, build.source.values.get("hidden_act", "silu"), sizes.ffn)
    build.linear(at.gate, Out(f"{layer}ffn_down.weight", at.stream, adds=True))


def _logits(build: Builder, sizes: Widths, at: Buffers) -> Place:
    last, logits = build.buffer(sizes.hidden, per=OUTPUTS), build.buffer(build.source.values["vocab_size"], per=OUTPUTS)
    build.select(last, at.stream, sizes.hidden)
    build.rms_norm(last, last, "output_norm.weight", sizes.hidden, sizes.epsilon)
    head = "output.weight" if build.has("output.weight") else "token_embd.weight"
    build.linear(last, Out(head, logits))
    return logits

"""The program of a layer's attention: queries, keys and values, their norms, RoPE, scores, and the way back."""

from __future__ import annotations

from fewbits.engine.building import Out, Place
from fewbits.engine.frame import Frame


def write_attention(frame: Frame, layer: int, source: Place, out: Place, adds: bool) -> None:
    """Attention of a layer over what `source` holds, written to `out` or added to it."""
    build, sizes, fact, values = frame.build, frame.sizes, frame.fact, frame.build.source.values
    query, key, value = _projected(frame, layer, source)
    if fact.query_norms:
        _normed(frame, layer, query, "attn_q_norm", sizes.heads)
        _normed(frame, layer, key, "attn_k_norm", sizes.key_heads)
    table = frame.table(layer)
    if table is not None:
        build.rope(query, sizes.heads, sizes.head, table)
        build.rope(key, sizes.key_heads, sizes.head, table)
    build.attend(
        frame.at.heads,
        query,
        key,
        value,
        heads=sizes.heads,
        cache=build.cache(sizes.key_heads, sizes.head),
        scale=fact.scores.of(values),
        softcap=float(values.get(fact.score_cap) or 0.0),
        window=frame.window(layer),
        sinks=build.vector(frame.name(layer, "attn_sinks.weight"), sizes.heads),
        encoder=build.source.architecture.encoder,
    )
    build.linear(frame.at.heads, Out(frame.name(layer, "attn_output.weight"), out, adds))


def _projected(frame: Frame, layer: int, source: Place) -> tuple[Place, Place, Place]:
    """Queries, keys and values, side by side: of one matrix, or of three."""
    query = frame.at.query
    key = query.at(frame.sizes.query)
    value = key.at(frame.sizes.key)
    fused = frame.name(layer, "attn_qkv.weight")
    if frame.build.has(fused):
        frame.build.linear(source, Out(fused, query))
    else:
        places = {"attn_q": query, "attn_k": key, "attn_v": value}
        frame.build.linear(source, *(Out(frame.name(layer, f"{n}.weight"), place) for n, place in places.items()))
    return query, key, value


def _normed(frame: Frame, layer: int, place: Place, name: str, heads: int) -> None:
    """Norm each head by itself, or all of them as one."""
    each = frame.fact.query_norms == "each head"
    width = frame.sizes.head if each else heads * frame.sizes.head
    frame.norm(place, place, frame.name(layer, name), width=width, heads=heads if each else 1)

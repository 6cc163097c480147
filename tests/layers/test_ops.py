"""The products as operations of torch: by torch's own checks, compiled, exported, from many threads, unleaked."""

from __future__ import annotations

import copy
import gc
import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from multiprocessing import get_context
from typing import Any

import pytest
import torch

import fewbits
from fewbits.errors import RecipeError
from fewbits.kernels.module import native_module
from fewbits.layers import ops
from fewbits.layers.matrix import PackedMatrix
from fewbits.layers.products import EXACT, WIDE, Product
from fewbits.layers.stored import StoredWeight
from fewbits.memory import resident_memory

NAMES = ("Q4_K", "nf4_g64_dq", "int8_row_sym", "fp8_e4m3_row", "BF16")
INPUTS = (WIDE, EXACT, "int8_token", "int8_token_split", "fp8_token")


def network(name: str = "Q4_K", *, widths: tuple[int, ...] = (256, 384, 96)) -> torch.nn.Sequential:
    """Linear layers with a function between them, quantized."""
    torch.manual_seed(0)
    layers: list[torch.nn.Module] = []
    for cols, rows in pairwise(widths):
        layers += [torch.nn.Linear(cols, rows), torch.nn.ReLU()]
    made = torch.nn.Sequential(*layers)
    wide = [f"{n}={name if cols % 256 == 0 else 'int8_row_sym'}" for n, cols in zip((0, 2), widths, strict=False)]
    fewbits.quantize(made, name, tensors=wide)
    return made


def arguments(matrix: PackedMatrix, x: torch.Tensor, bias: torch.Tensor | None, how: str) -> tuple[Any, ...]:
    """What `fewbits::linear` takes."""
    return (x, bias, matrix.tensors(), matrix.format, ",".join(matrix.fields), *matrix.shape, how)


@pytest.mark.parametrize("how", INPUTS)
@pytest.mark.parametrize("name", NAMES)
def test_torch_finds_nothing_wrong(name: str, how: str) -> None:
    matrix = network(name)[0].matrix
    for dtype, wants in ((torch.float32, True), (torch.bfloat16, False)):
        x = torch.randn(2, 3, 256, dtype=dtype, requires_grad=wants)
        bias = torch.randn(384, requires_grad=wants)
        torch.library.opcheck(ops.linear, arguments(matrix, x, bias, how))
    torch.library.opcheck(ops.linear_grad, (torch.randn(5, 384), *arguments(matrix, x, bias, how)[2:-1]))


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_those_of_the_decoded_weights(name: str) -> None:
    made = network(name)
    x = torch.randn(7, 256, requires_grad=True)
    made[0](x).square().sum().backward()
    own, bias = x.grad, made[0].bias.grad

    weight = made[0].weight
    outputs = made[0](x).detach()
    assert own is not None
    torch.testing.assert_close(own, 2 * outputs @ weight, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(bias, 2 * outputs.sum(0), rtol=1e-4, atol=1e-4)
    assert [n for n, p in made.named_parameters() if p.grad is not None] == ["0.bias"]


def test_gradients_decode_slab_by_slab(monkeypatch: pytest.MonkeyPatch) -> None:
    """No slab of numbers is the whole matrix, where rows share something as well."""
    monkeypatch.setattr("fewbits.layers.stored.SLAB", 64 * 256)
    monkeypatch.setattr(PackedMatrix, "numbers", lambda _: pytest.fail("the whole matrix was decoded"))
    for name in ("Q4_K", "nf4_g64_dq"):
        matrix = network(name)[0].matrix
        slabs = list(matrix.weight().slabs())
        assert [(start, stop) for start, stop, _ in slabs] == [(n, n + 64) for n in range(0, 384, 64)]
        x = torch.randn(3, 256, requires_grad=True)
        matrix.multiply(x, WIDE).sum().backward()
        assert x.grad is not None
        torch.testing.assert_close(x.grad[0], torch.cat([w for *_, w in slabs]).sum(0), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["Q4_K", "nf4_g64_dq", "int8_row_sym"])
def test_compiled_and_exported_give_the_same_bits(name: str) -> None:
    made, x = network(name).eval(), torch.randn(4, 256)
    with torch.no_grad():
        expected = made(x)
        compiled = torch.compile(made, fullgraph=True, backend="aot_eager", dynamic=True)
        assert torch.equal(compiled(x), expected)
        assert torch.equal(compiled(x[:2]), expected[:2])
        batch = torch.export.Dim("batch", max=4096)
        exported = torch.export.export(made, (x,), dynamic_shapes=({0: batch},))
        assert "fewbits.linear.default" in exported.graph_module.code
        assert torch.equal(exported.module()(x), expected)
        assert torch.equal(exported.module()(x[:3]), expected[:3])


def test_compiled_networks_learn_their_biases() -> None:
    made, x = network(), torch.randn(4, 256)
    made(x).sum().backward()
    expected = made[0].bias.grad.clone()
    made.zero_grad()
    torch.compile(made, fullgraph=True, backend="aot_eager")(x).sum().backward()
    torch.testing.assert_close(made[0].bias.grad, expected)


def test_what_is_made_is_made_once_and_anew_where_fields_change(monkeypatch: pytest.MonkeyPatch) -> None:
    made, x, times = network(), torch.randn(2, 256), 0
    honest = Product.of

    def counted(weight: StoredWeight, threads: int) -> Product:
        nonlocal times
        times += 1
        return honest(weight, threads)

    monkeypatch.setattr(Product, "of", counted)
    first = made[0](x)
    assert torch.equal(made[0](x), first)
    assert times == 1
    state = {name: tensor.clone() for name, tensor in made.state_dict().items()}
    data = next(made[0].matrix.buffers())
    with torch.no_grad():
        data[:, 20:40] = 0
    changed = made[0](x)
    assert times == 2
    assert not torch.equal(changed, first)
    made.load_state_dict(state)
    assert torch.equal(made[0](x), first)
    made[0].matrix.forget()
    assert torch.equal(made[0](x), first)
    assert times == 4


@pytest.mark.parametrize("name", NAMES)
def test_kept_copied_moved_and_converted(name: str) -> None:
    made, x = network(name), torch.randn(3, 256)
    expected = made(x)
    assert not any("layer" in key or "panel" in key for key in made.state_dict())
    for other in (copy.deepcopy(made), pickle.loads(pickle.dumps(made)), made.to("cpu").float()):
        assert torch.equal(other(x), expected)
    half = copy.deepcopy(made).bfloat16()
    assert half(x.bfloat16()).dtype == torch.bfloat16
    assert torch.allclose(half(x.bfloat16()).float(), expected, atol=0.03)
    assert copy.deepcopy(made).to("meta")(x.to("meta")).shape == expected.shape


def test_other_devices_compute_in_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a GPU does, on the processor: the same but for the order of sums."""
    matrix, x, bias = network()[0].matrix, torch.randn(5, 256), torch.randn(384)
    for how in INPUTS:
        expected = matrix.multiply(x, how, bias)
        found = ops.decoded_product(matrix.weight(), x, how, bias)
        torch.testing.assert_close(found, expected, rtol=0, atol=2e-4 * float(expected.abs().max()))


def test_eight_threads_at_once_get_the_same_bits() -> None:
    made, batches = network().eval(), [torch.randn(n % 5 + 1, 256) for n in range(64)]
    with torch.no_grad():
        expected = [made(x) for x in batches]
        fresh = network().eval()  # whose matrices are made while all ask for them
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(torch.no_grad()(fresh), batches))
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def _in_a_fork(product: Product, x: torch.Tensor, pipe: Any) -> None:
    pipe.send(product(x, WIDE, None, 2).numpy().tobytes())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_computes() -> None:
    """The threads of the parent are not there, and nobody waits for them."""
    matrix, x = network(widths=(512, 768, 96))[0].matrix, torch.randn(9, 512)
    product = ops.product_of(*arguments(matrix, x, None, WIDE)[2:-1])
    expected = product(x, WIDE, None, 2).numpy().tobytes()
    context = get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=_in_a_fork, args=(product, x, theirs))
    process.start()
    try:
        assert ours.poll(60), "the forked process hangs"
        assert ours.recv() == expected
    finally:
        process.kill()
        process.join()


def test_ten_thousand_calls_take_no_memory() -> None:
    made, x = network().eval(), torch.randn(3, 256)
    with torch.no_grad():
        for _ in range(500):
            made(x)
        gc.collect()
        before = resident_memory()
        for _ in range(10_000):
            made(x)
        gc.collect()
    assert resident_memory() - before < 2 << 20


def test_what_is_made_goes_with_its_module() -> None:
    gc.collect()
    before = len(ops._products)
    made = network()
    made(torch.randn(1, 256))
    assert len(ops._products) == before + 2
    del made
    gc.collect()
    assert len(ops._products) == before


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"how": "int9_token"}, RecipeError, "not 'int9_token'"),
        ({"x": torch.randn(2, 128)}, RuntimeError, "invalid for input of size|shape"),
    ],
)
def test_refused(change: dict[str, Any], error: type[Exception], words: str) -> None:
    given = {"matrix": network()[0].matrix, "x": torch.randn(3, 256), "bias": None, "how": WIDE} | change
    with pytest.raises(error, match=words):
        ops.linear(*arguments(**given))


@pytest.mark.parametrize(
    ("stored", "cols", "threads", "words"),
    [((8, 144), 256, 0, "threads"), ((8, 143), 256, 1, "wrong width"), ((8, 144), 250, 1, "multiple")],
)
def test_the_kernel_checks_what_it_gets(stored: tuple[int, int], cols: int, threads: int, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        native_module().PackedLayer("Q4_K", torch.zeros(stored, dtype=torch.uint8).numpy(), cols, threads)

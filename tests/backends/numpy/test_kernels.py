"""Every kernel's gradient, against central differences in float64 and against PyTorch in float32."""

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest

from mlxtune.backends.numpy import blocks, threads
from mlxtune.backends.numpy.arrays import Workspace
from mlxtune.backends.numpy.dropout import Dropout
from mlxtune.backends.numpy.kernels import cross_entropy
from mlxtune.backends.numpy.kernels.attention import Heads, attend, attend_backward
from mlxtune.backends.numpy.kernels.cross_entropy import Worth
from mlxtune.backends.numpy.kernels.linear import Linear, input_gradient, linear, weight_gradients
from mlxtune.backends.numpy.kernels.lora import LowRank, Seat
from mlxtune.backends.numpy.kernels.norm import rms_norm, rms_norm_backward
from mlxtune.backends.numpy.kernels.rotary import rotate, rotate_backward
from mlxtune.backends.numpy.kernels.swiglu import swiglu, swiglu_backward
from mlxtune.backends.numpy.rope import Tables, tables
from mlxtune.models.rope import Rope, inverse_frequencies
from tests.support.numpy import worst

EPSILON = 1e-5
FACTORS = (0.5, 0.5, 1.0)  # of three heads
DIFFERENCES, TORCH = 1e-7, 2e-6  # of each tensor's largest entry

# A case: inputs by name -> (outputs, gradients by name), given the gradient of the outputs.
Arrays = dict[str, np.ndarray]
Case = Callable[[Arrays, np.ndarray | None], tuple[np.ndarray, Arrays]]


def norm(x, d_out):
    out = np.empty_like(x["x"])
    scale = rms_norm(x["x"], x["weight"], EPSILON, out)
    if d_out is None:
        return out, {}
    d_x, d_weight = d_out.copy(), np.empty_like(x["weight"])
    rms_norm_backward(d_x, x["x"], scale, x["weight"], d_weight, np.empty_like(d_x))
    return out, {"x": d_x, "weight": d_weight}


def rotary(x, d_out):
    ws, (_, n_tokens, _, size) = Workspace(x["x"].dtype.type), x["x"].shape
    made = Tables(*(table.astype(ws.dtype) for table in tables(Rope(size), n_tokens, FACTORS)))
    out = np.empty_like(x["x"])
    rotate(x["x"], made, out, ws)
    if d_out is None:
        return out, {}
    d_x = d_out.copy()
    rotate_backward(d_x, made, ws)
    return out, {"x": d_x}


def gated(x, d_out):
    n_features = x["x"].shape[0] // 2
    sigmoid, out = np.empty_like(x["x"][:n_features]), np.empty_like(x["x"][:n_features])
    swiglu(x["x"], sigmoid, out)
    d_x, again = np.empty_like(x["x"]), np.empty_like(out)
    if d_out is not None:
        swiglu_backward(d_out, x["x"], sigmoid, d_x, again)
        assert np.array_equal(again, out)
    return out, {"x": d_x}


def attention(x, d_out, window=None):
    ws = Workspace(x["q"].dtype.type)
    n_group = x["q"].shape[1] // x["k"].shape[1]
    bands = [Heads(x["q"], x["k"], x["v"])]
    (out,), kept = attend(bands, n_group, window, ws, "kept.")
    if d_out is None:
        return out.copy(), {}
    gradients = attend_backward([d_out.copy()], [np.vecdot(d_out, out)], bands, kept, ws)
    return out.copy(), {name: of_bands[0] for name, of_bands in zip("qkv", gradients, strict=True)}


def windowed(x, d_out):
    return attention(x, d_out, window=7)


def projection(x, d_out, order="C"):
    """order: F has the features first in the memory of inputs and outputs."""
    ws, dropout = Workspace(x["x"].dtype.type), Dropout(seed=1, step=2, micro_batch=0)
    given, d = np.asarray(x["x"], order=order), {name: np.empty_like(array) for name, array in x.items()}
    seat = Seat(slice(2, 6), x["weight"][2:6], number=4)
    adapter = LowRank(seat, x["a"], x["b"], d["a"], d["b"], scale=1.5, dropout=0.3)
    module = Linear(x["weight"], x["bias"], d["weight"], d["bias"], (adapter,))
    out = linear(given, module, np.empty((len(given), len(x["weight"])), given.dtype, order=order), dropout, ws)
    if d_out is not None:
        d_out, d["x"] = np.asarray(d_out, order=order), np.empty_like(given)
        weight_gradients(d_out, given, module, dropout, ws)
        input_gradient(d_out, module, d["x"], dropout, ws)
    return out, d


def head(x, d_out):
    """The log-probabilities; in chunks of two tokens."""
    return head_in_one_go(x, d_out, is_pointwise=True)


def head_in_one_go(x, d_out, *, is_pointwise=False):
    """The slopes may be asked of all tokens at once."""
    ws, targets = Workspace(x["x"].dtype.type), np.arange(len(x["x"])) % len(x["weight"])
    d_weight, asked = np.empty_like(x["weight"]), []

    def slopes(logps_N, tokens):
        asked.append(len(logps_N))
        return np.ones_like(logps_N) if d_out is None else d_out[tokens]

    worth = Worth(slopes, is_pointwise)
    logps, d_x = cross_entropy.log_probabilities_and_gradients(x["x"].copy(), x["weight"], targets, worth, d_weight, ws)
    assert len(asked) == (-(-len(logps) // 2) if is_pointwise else 1)
    np.testing.assert_allclose(logps, cross_entropy.log_probabilities(x["x"], x["weight"], targets, ws), rtol=1e-6)
    return logps, {"x": d_x, "weight": d_weight}


QKV = {"q": (3, 2 * 150, 4), "k": (3, 150, 4), "v": (3, 150, 4)}
LINEAR = {"x": (7, 5), "weight": (8, 5), "bias": (8,), "a": (5, 3), "b": (3, 4)}
CASES: dict[str, tuple[Case, dict[str, tuple[int, ...]]]] = {
    "norm": (norm, {"x": (3, 5, 8), "weight": (8,)}),
    "rotary": (rotary, {"x": (2, 5, 3, 8)}),
    "swiglu": (gated, {"x": (10, 6)}),
    "attention": (attention, QKV),
    "attention in a window": (windowed, QKV),
    "linear": (projection, LINEAR),
    "linear, features first": (partial(projection, order="F"), LINEAR),
    "head": (head, {"x": (7, 5), "weight": (11, 5)}),
    "head, asked at once": (head_in_one_go, {"x": (7, 5), "weight": (11, 5)}),
}
EVERY_CASE = pytest.mark.parametrize("name", CASES)


def inputs(shapes, dtype):
    random = np.random.default_rng(0)
    return {name: random.normal(size=shape).astype(dtype) for name, shape in shapes.items()}


def check_gradients(case: Case, x: Arrays, tolerance: float) -> None:
    """Raises AssertionError where a gradient is not that of central differences along random directions, in float64."""
    out, _ = case(x, None)
    random = np.random.default_rng(1)
    d_out = random.normal(size=out.shape)
    _, gradients = case(x, d_out)
    for name, gradient in gradients.items():
        for _ in range(4):
            step = random.normal(size=x[name].shape) * 1e-6
            up, down = (case({**x, name: x[name] + sign * step}, None)[0] for sign in (1, -1))
            found, expected = (gradient * step).sum(), ((up - down) * d_out).sum() / 2
            assert abs(found - expected) <= tolerance * np.linalg.norm(gradient) * np.linalg.norm(step), name


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    """So that a small case has several chunks and blocks."""
    monkeypatch.setattr(blocks, "LOGITS", 22)
    monkeypatch.setattr(cross_entropy, "BLOCK_ELEMENTS", 11)
    monkeypatch.setattr(cross_entropy, "MERGE_ELEMENTS", 20)


@EVERY_CASE
def test_gradients_agree_with_central_differences(name):
    case, shapes = CASES[name]
    check_gradients(case, inputs(shapes, np.float64), DIFFERENCES)


@EVERY_CASE
def test_the_checker_catches_a_fault_of_a_tenth_of_a_percent(name):
    case, shapes = CASES[name]
    x = inputs(shapes, np.float64)

    def faulty(x, d_out):
        out, gradients = case(x, d_out)
        return out, {key: array * 1.001 for key, array in gradients.items()}

    with pytest.raises(AssertionError):
        check_gradients(faulty, x, DIFFERENCES)


def torch_twins(torch):
    """The same functions by PyTorch's own operations."""
    functional = torch.nn.functional

    def rotary(x):
        frequencies, _ = inverse_frequencies(Rope(x.shape[-1]))
        angles = torch.from_numpy(np.arange(x.shape[1])[:, None] * frequencies).float().repeat(1, 2)[:, None]
        first, second = x.chunk(2, -1)
        turned = x * angles.cos() + torch.cat([-second, first], -1) * angles.sin()
        return turned * torch.tensor(FACTORS)[:, None]

    def attention(q, k, v, window=None):
        n_pairs, n_merged, size = q.shape
        n_tokens = k.shape[1]
        q = q.reshape(n_pairs, n_tokens, n_merged // n_tokens, size).transpose(1, 2)
        k, v = (part[:, None].repeat_interleave(n_merged // n_tokens, 1) for part in (k, v))
        distance = torch.arange(n_tokens)[:, None] - torch.arange(n_tokens)
        mask = (distance >= 0) & (distance < (window or n_tokens))
        out = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=1.0)
        return out.transpose(1, 2).flatten(1, 2)

    def linear(x, weight, bias, a, b, features_first=False):
        mask = Dropout(1, 2, 0).mask(4, 0.3, np.empty(tuple(x.T.shape if features_first else x.shape), np.float32))
        kept = torch.from_numpy(mask.T if features_first else mask)
        part = 1.5 * ((x * kept) @ a) @ b
        return functional.linear(x, weight, bias) + functional.pad(part, (2, 2))

    def head(x, weight):
        targets = torch.arange(len(x)) % len(weight)
        return -functional.cross_entropy(x @ weight.T, targets, reduction="none")

    return {
        "norm": lambda x, weight: functional.rms_norm(x, weight.shape, weight, EPSILON),
        "rotary": rotary,
        "swiglu": lambda x: functional.silu(x.chunk(2)[0]) * x.chunk(2)[1],
        "attention": attention,
        "attention in a window": lambda q, k, v: attention(q, k, v, window=7),
        "linear": linear,
        "linear, features first": partial(linear, features_first=True),
        "head": head,
        "head, asked at once": head,
    }


@EVERY_CASE
def test_outputs_and_gradients_agree_with_torch(name):
    torch = pytest.importorskip("torch", reason="the oracle of this test is not installed")
    case, shapes = CASES[name]
    x = inputs(shapes, np.float32)
    out, _ = case(x, None)
    d_out = np.random.default_rng(1).normal(size=out.shape).astype(np.float32)
    _, gradients = case(x, d_out)
    leaves = {key: torch.from_numpy(array).requires_grad_() for key, array in x.items()}
    expected = torch_twins(torch)[name](**leaves)
    expected.backward(torch.from_numpy(d_out))
    assert worst(out, expected.detach()) < TORCH
    for key, leaf in leaves.items():
        assert gradients[key].dtype == np.float32
        assert worst(gradients[key], leaf.grad) < TORCH, key


def test_threads_change_no_bit_of_the_attention(monkeypatch):
    x = inputs({"q": (5, 2 * 150, 4), "k": (5, 150, 4), "v": (5, 150, 4)}, np.float32)
    d_out = np.random.default_rng(1).normal(size=x["q"].shape).astype(np.float32)
    pool, shared = threads._pool, []
    monkeypatch.setattr(threads, "_pool", lambda: shared.append(True) or pool())
    monkeypatch.setattr(threads, "LEAST", 1)
    for case in (attention, windowed):
        found = []
        for count in (1, 3):
            monkeypatch.setattr(threads, "threads", lambda count=count: count)
            shared.clear()
            out, gradients = case(x, d_out.copy())
            assert len(shared) == (0 if count == 1 else 2)  # forward and backward
            found.append([out, *gradients.values()])
        for one, many in zip(*found, strict=True):
            assert np.array_equal(one, many)

"""The plan from shapes alone: what stays between two steps by hand, and that more of anything never takes less."""

import pytest

from mlxtune.memory.plan import plan
from mlxtune.memory.setup import Rows, rows_of
from tests.support.memory import SHAPE, outline_folder, setup_of

D, F, V, LAYERS = 128, 352, 2000, 4  # of the small model; its keys and values are half as wide as its queries
LAYER = 2 * D * D + 2 * D * (D // 2) + 3 * D * F + 2 * D
HEAD = EMBEDDING = V * D
ALL = LAYERS * LAYER + D + HEAD + EMBEDDING
LAST_2 = 2 * LAYER + D + HEAD
ADAPTERS = 4 * (4 * D + 2 * (D + D // 2) + 3 * (D + F))  # of one layer, rank 4
LORA = {"strategy__name": "lora", "strategy__rank": 4}
KEPT = {"backend__prefix_cache": "on"}
MOMENTUM = {"optimizer__name": "sgd", "optimizer__momentum": 0.9}
# Settings, changes of the config; then bytes: frozen, trained, of the optimizer
BY_HAND = {
    "last 2, bf16": ({"strategy__last_n": 2}, {}, (2 * (ALL - LAST_2), 2 * LAST_2, 8 * LAST_2)),
    "last 2, kept": ({"strategy__last_n": 2, **KEPT}, {}, (0, 2 * LAST_2, 8 * LAST_2)),
    "last 2, tied, kept": (
        {"strategy__last_n": 2, **KEPT},
        {"tie_word_embeddings": True},  # the head is the embedding, and stays
        (2 * EMBEDDING, 2 * (LAST_2 - HEAD), 8 * (LAST_2 - HEAD)),
    ),
    "last 2, untied, kept": (
        {"strategy__last_n": 2, "strategy__head": True, **KEPT},
        {"tie_word_embeddings": True},  # the embedding is not read any more, its copy trains
        (0, 2 * LAST_2, 8 * LAST_2),
    ),
    "last 2, no head": (
        {"strategy__last_n": 2, "strategy__head": False},
        {},
        (2 * (ALL - LAST_2 + HEAD), 2 * (LAST_2 - HEAD), 8 * (LAST_2 - HEAD)),
    ),
    "full, fp32": ({"strategy__name": "full", "backend__precision": "fp32"}, {}, (0, 4 * ALL, 8 * ALL)),
    "full, masters": ({"strategy__name": "full", "optimizer__low_precision": "master"}, {}, (0, 2 * ALL, 12 * ALL)),
    "full, moments in 16 bits": ({"strategy__name": "full", "optimizer__moments": "bf16"}, {}, (0, 2 * ALL, 4 * ALL)),
    "full, sgd": ({"strategy__name": "full", "optimizer__name": "sgd"}, {}, (0, 2 * ALL, 0)),
    "full, sgd, momentum": ({"strategy__name": "full", **MOMENTUM}, {}, (0, 2 * ALL, 4 * ALL)),
    "full, sgd, momentum in 16 bits, masters": (
        {"strategy__name": "full", **MOMENTUM, "optimizer__moments": "bf16", "optimizer__low_precision": "master"},
        {},
        (0, 2 * ALL, 6 * ALL),
    ),
    "full, adam": ({"strategy__name": "full", "optimizer__name": "adam"}, {}, (0, 2 * ALL, 8 * ALL)),
    "lora of the layers": (
        {**LORA, "strategy__target": ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")},
        {},
        (2 * ALL, 4 * LAYERS * ADAPTERS, 8 * LAYERS * ADAPTERS),
    ),
}


@pytest.mark.parametrize(("settings", "shape", "expected"), BY_HAND.values(), ids=BY_HAND)
def test_what_stays_between_two_steps_on_mlx_is_what_it_is_by_hand(tmp_path, settings, shape, expected):
    setup = setup_of(outline_folder(tmp_path / "model", **shape), **settings)
    resident = plan(setup, batch()).resident
    assert (resident.frozen_weights, resident.trainable_weights, resident.optimizer) == expected
    assert resident.total == sum(expected)


def batch(n_rows: int = 2, length: int = 64, share: float = 1.0) -> Rows:
    return rows_of([length] * n_rows, int(share * n_rows * (length - 1)), 8)


STRATEGIES = {
    "last 2": {"strategy__last_n": 2},
    "last 2, kept": {"strategy__last_n": 2, **KEPT},
    "last 1, recomputed": {"strategy__last_n": 1, "backend__grad_checkpoint": True},
    "full": {"strategy__name": "full"},
    "full, accumulated": {"strategy__name": "full", "train__grad_accum": 2},
    "lora": LORA,
    "lora, recomputed": {**LORA, "backend__grad_checkpoint": True},
}
FAMILIES = {"llama": {}, "tied": {"tie_word_embeddings": True}, "qwen3": {"model_type": "qwen3"}}
MORE = {
    "num_hidden_layers": (4, 5, 8, 16),
    "vocab_size": (2000, 2001, 4000, 32_000, 33_000, 128_256),
    "hidden_size": (128, 256, 512),
    "intermediate_size": (352, 353, 1024),
    "num_key_value_heads": (1, 2, 4),
}


def peak(folder, rows, backend, settings, shape):
    return plan(setup_of(outline_folder(folder, **shape), backend__name=backend, **settings), rows).peak_bytes


@pytest.mark.parametrize("backend", ["mlx", "numpy"])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.few(2)
def test_a_larger_model_never_takes_less(tmp_path, backend, family, strategy):
    for key, values in MORE.items():
        shapes = [{**FAMILIES[family], key: value, "head_dim": 32} for value in values]
        peaks = [peak(tmp_path / "model", batch(), backend, STRATEGIES[strategy], shape) for shape in shapes]
        assert peaks == sorted(peaks), key


LARGER = {
    "longer": [batch(length=n) for n in (9, 16, 64, 65, 72, 500, 2048)],
    "more rows": [batch(n_rows=n) for n in (1, 2, 3, 4, 9, 32)],
    "more loss": [batch(length=512, share=share) for share in (0.01, 0.1, 0.5, 1)],
    "more short rows beside a long one": [rows_of([512, *[16] * n], 100, 8) for n in range(5)],
}


@pytest.mark.parametrize("backend", ["mlx", "numpy"])
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("what", LARGER)
def test_a_larger_batch_never_takes_less(tmp_path, backend, strategy, what):
    setup = setup_of(outline_folder(tmp_path / "model"), backend__name=backend, **STRATEGIES[strategy])
    peaks = [plan(setup, rows).peak_bytes for rows in LARGER[what]]
    assert peaks == sorted(peaks)
    assert peaks[-1] > peaks[0]


@pytest.mark.parametrize("backend", ["mlx", "numpy"])
def test_what_is_said_to_take_less_takes_less(tmp_path, backend):
    folder, rows = outline_folder(tmp_path / "model", num_hidden_layers=8), batch(4, 512)

    def taken(**settings):
        return peak(folder, rows, backend, {"strategy__last_n": 4, **settings}, {"num_hidden_layers": 8})

    assert taken(backend__grad_checkpoint=True) < taken()
    assert taken(optimizer__moments="bf16") < taken()
    assert taken(optimizer__name="sgd") < taken(**MOMENTUM) < taken()
    assert taken(optimizer__name="adam") == taken()
    assert taken(strategy__last_n=2) < taken()
    assert taken(strategy__head=False) < taken()
    assert taken(optimizer__low_precision="master") > taken()
    assert taken(train__grad_accum=2) > taken()


def test_the_small_model_is_the_one_of_the_arithmetic():
    assert (SHAPE["hidden_size"], SHAPE["intermediate_size"], SHAPE["vocab_size"]) == (D, F, V)
    assert SHAPE["num_hidden_layers"] == LAYERS
    assert SHAPE["num_key_value_heads"] * SHAPE["head_dim"] == D // 2

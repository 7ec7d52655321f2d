from itertools import chain

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxtune.data.batches import Plan, collate, eval_batches, eval_plan, padding_waste, plan
from mlxtune.data.types import TokenRow
from tests.support_assets import assets_folder
from tests.support_data import loaded

LENGTHS = st.lists(st.integers(2, 300), min_size=1, max_size=60)
SIZES = st.integers(1, 7)


def step_rows(steps: Plan) -> list[set[int]]:
    return [set(chain.from_iterable(step)) for step in steps]


def row(length: int) -> TokenRow:
    return TokenRow(np.arange(1, length + 1, dtype=np.int32), np.arange(length) > 1, "a.jsonl:1")


@given(lengths=LENGTHS, batch=SIZES, accum=SIZES, seed=st.integers(0, 2**40), epoch=st.integers(1, 9))
def test_every_row_once_an_epoch(lengths: list[int], batch: int, accum: int, seed: int, epoch: int) -> None:
    """mlx-lm: tail rows are never trained, and the last partial window is dropped."""
    steps = plan(lengths, batch_size=batch, grad_accum=accum, seed=seed, epoch=epoch)
    assert sorted(chain.from_iterable(chain.from_iterable(steps))) == list(range(len(lengths)))
    assert all(1 <= len(rows) <= batch for step in steps for rows in step)
    assert all(1 <= len(step) <= accum for step in steps)
    assert len(steps) == -(-len(lengths) // (batch * accum))


@given(lengths=LENGTHS, batch=SIZES, accum=SIZES)
def test_micro_batches_hold_the_rows_of_one_batch_of_all_their_rows(lengths: list[int], batch: int, accum: int) -> None:
    cut = plan(lengths, batch_size=batch, grad_accum=accum, seed=1, epoch=1)
    whole = plan(lengths, batch_size=batch * accum, grad_accum=1, seed=1, epoch=1)
    assert step_rows(cut) == step_rows(whole)


def test_the_order_is_a_function_of_seed_and_epoch_alone() -> None:
    lengths = list(np.random.default_rng(0).integers(5, 200, 300))
    keys = [(0, 1), (0, 2), (1, 1), (1, 2)]
    plans = [plan(lengths, batch_size=4, grad_accum=2, seed=seed, epoch=epoch) for seed, epoch in keys]
    np.random.seed(7)  # noqa: NPY002 - the global stream must make no difference
    assert plans[0] == plan(lengths, batch_size=4, grad_accum=2, seed=0, epoch=1)
    assert all(one != two for place, one in enumerate(plans) for two in plans[:place])


def test_batches_come_in_random_order_of_length() -> None:
    """mlx-lm: "sort by length" sorts by the number of dict keys."""
    lengths = list(range(2, 402))
    means = [
        np.mean([lengths[place] for place in step[0]])
        for step in plan(lengths, batch_size=4, grad_accum=1, seed=0, epoch=1)
    ]
    assert abs(np.corrcoef(means, np.arange(len(means)))[0, 1]) < 0.3


def test_equal_lengths_meet_other_rows_in_each_epoch() -> None:
    first, second = (step_rows(plan([9] * 64, batch_size=4, grad_accum=1, seed=0, epoch=epoch)) for epoch in (1, 2))
    assert not any(rows in second for rows in first)


@pytest.mark.parametrize("data", ["alpaca/alpaca_en_demo.json", "wikisql"])
def test_waste_is_under_five_percent_on_ragged_chat_data(data: str) -> None:
    """mlx-lm 0.32 iterate_batches: 25% padding waste (issue 596)."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(assets_folder() / "tokenizers/minimind")
    lengths = [len(row.tokens) for row in loaded(assets_folder() / "data" / data, tokenizer).train]
    steps = plan(lengths, batch_size=4, grad_accum=2, seed=0, epoch=1)
    assert padding_waste(lengths, chain.from_iterable(steps)) < 0.05


def test_padding_carries_no_loss() -> None:
    """mlx-lm loss mask (steps <= lengths): one pad token after every short row is trained."""
    rows = [row(3), row(9), row(20)]
    batch = collate(rows, [1, 0])
    assert batch.tokens_BT.shape == batch.supervised_BT.shape == (2, 16)
    assert batch.tokens_BT[1].tolist() == [1, 2, 3, *[0] * 13]
    assert batch.supervised_BT[1].tolist() == [False, False, True, *[False] * 13]
    assert batch.n_supervised == sum(int(rows[place].supervised.sum()) for place in (0, 1))
    assert batch.rows == (1, 0)
    assert batch.lengths_B.tolist() == [9, 3]
    assert collate(rows, [0], multiple=128).tokens_BT.shape == (1, 128)


@given(lengths=LENGTHS, batch=SIZES)
def test_the_waste_of_a_plan_is_that_of_its_batches(lengths: list[int], batch: int) -> None:
    steps = plan(lengths, batch_size=batch, grad_accum=1, seed=0, epoch=1)
    rows = [row(length) for length in lengths]
    made = [collate(rows, indices) for step in steps for indices in step]
    used, positions = sum(lengths), sum(each.tokens_BT.size for each in made)
    assert padding_waste(lengths, chain.from_iterable(steps)) == pytest.approx(1 - used / positions)


@given(lengths=LENGTHS, batch=SIZES)
def test_evaluation_sees_every_row_once_in_one_order(lengths: list[int], batch: int) -> None:
    batches = list(eval_batches([row(length) for length in lengths], batch_size=batch))
    assert [each.rows for each in batches] == eval_plan(lengths, batch_size=batch)
    assert sorted(chain.from_iterable(each.rows for each in batches)) == list(range(len(lengths)))

from itertools import chain, combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxtune.data.batches import Epoch, Lengths, collate, epoch_of, eval_batches, padding_waste
from mlxtune.data.spread import NO_ROW, spread
from mlxtune.data.types import TokenRow
from tests.support.assets import assets_folder
from tests.support.data import loaded

LENGTHS = st.lists(st.integers(2, 300), min_size=1, max_size=60).map(np.array)
SIZES, BY_LENGTH = st.integers(1, 7), st.booleans()


def step_rows(steps: Epoch) -> list[set[int]]:
    return [set(chain.from_iterable(step)) for step in steps]


def numbers(steps: Epoch) -> list[list[tuple[int, ...]]]:
    """Of all rows, as they lie in batches and steps."""
    return [list(step) for step in steps]


def row(length: int) -> TokenRow:
    return TokenRow(np.arange(1, length + 1, dtype=np.int32), np.arange(length) > 1, "a.jsonl:1")


@given(
    lengths=LENGTHS, batch=SIZES, accum=SIZES, seed=st.integers(0, 2**40), epoch=st.integers(1, 9), by_length=BY_LENGTH
)
def test_every_row_once_an_epoch(
    lengths: Lengths, batch: int, accum: int, seed: int, epoch: int, by_length: bool
) -> None:
    """mlx-lm: tail rows are never trained, and the last partial window is dropped."""
    steps = epoch_of(lengths, batch_size=batch, grad_accum=accum, seed=seed, epoch=epoch, by_length=by_length)
    assert sorted(chain.from_iterable(chain.from_iterable(steps))) == list(range(len(lengths)))
    assert all(1 <= len(rows) <= batch for step in steps for rows in step)
    assert all(1 <= len(step) <= accum for step in steps)
    assert len(steps) == -(-len(lengths) // (batch * accum))


@given(lengths=LENGTHS, batch=SIZES, accum=SIZES, by_length=BY_LENGTH)
def test_micro_batches_hold_the_rows_of_one_batch_of_all_their_rows(
    lengths: Lengths, batch: int, accum: int, by_length: bool
) -> None:
    cut = epoch_of(lengths, batch_size=batch, grad_accum=accum, seed=1, epoch=1, by_length=by_length)
    whole = epoch_of(lengths, batch_size=batch * accum, grad_accum=1, seed=1, epoch=1, by_length=by_length)
    assert step_rows(cut) == step_rows(whole)


@pytest.mark.parametrize("by_length", [False, True])
def test_the_order_is_a_function_of_seed_and_epoch_alone(by_length: bool) -> None:
    lengths = np.random.default_rng(0).integers(5, 200, 300)
    keys = [(0, 1), (0, 2), (1, 1), (1, 2)]
    settings = {"batch_size": 4, "grad_accum": 2, "by_length": by_length}
    plans = [numbers(epoch_of(lengths, **settings, seed=seed, epoch=epoch)) for seed, epoch in keys]
    np.random.seed(7)  # noqa: NPY002 - the global stream must make no difference
    assert plans[0] == numbers(epoch_of(lengths, **settings, seed=0, epoch=1))
    assert all(one != two for place, one in enumerate(plans) for two in plans[:place])


def test_batches_come_in_random_order_of_length() -> None:
    """mlx-lm: "sort by length" sorts by the number of dict keys."""
    lengths = np.arange(2, 402)
    means = [
        np.mean([lengths[place] for place in step[0]])
        for step in epoch_of(lengths, batch_size=4, grad_accum=1, seed=0, epoch=1, by_length=True)
    ]
    assert abs(np.corrcoef(means, np.arange(len(means)))[0, 1]) < 0.3


@pytest.mark.parametrize("by_length", [False, True])
def test_equal_lengths_meet_other_rows_in_each_epoch(by_length: bool) -> None:
    settings = {"batch_size": 4, "grad_accum": 1, "seed": 0, "by_length": by_length}
    first, second = (step_rows(epoch_of(np.full(64, 9), **settings, epoch=epoch)) for epoch in (1, 2))
    assert not any(rows in second for rows in first)


def pairs(steps: Epoch) -> set[tuple[int, ...]]:
    """Rows that share a step."""
    return {pair for rows in step_rows(steps) for pair in combinations(sorted(rows), 2)}


def test_packed_rows_meet_others_in_each_epoch() -> None:
    lengths = chat_lengths()
    first, second = (
        pairs(epoch_of(lengths, batch_size=4, grad_accum=2, seed=0, epoch=epoch, by_length=False)) for epoch in (1, 2)
    )
    assert len(first & second) < 0.05 * len(first)


def chat_lengths(count: int = 1000) -> Lengths:
    """Many short rows, few long ones."""
    drawn = np.random.default_rng(0).lognormal(6, 0.8, count)
    return drawn.clip(20, 2048).astype(np.int32)


@pytest.mark.parametrize("grad_accum", [1, 2])
def test_packed_batches_have_about_the_same_number_of_tokens(grad_accum: int) -> None:
    lengths, most = chat_lengths(), {}
    for by_length in (False, True):
        steps = epoch_of(lengths, batch_size=4, grad_accum=grad_accum, seed=0, epoch=1, by_length=by_length)
        tokens = [sum(lengths[row] for row in rows) for step in steps for rows in step]
        most[by_length] = max(tokens) / np.mean(tokens)
    assert most[False] < 1.5
    assert most[True] > 2.5 * most[False]
    tokens = [sum(lengths[row] for row in rows) for rows in eval_batches(lengths, batch_size=4, by_length=False)]
    assert max(tokens) < 1.5 * np.mean(tokens)


@given(lengths=LENGTHS, size=SIZES)
def test_groups_differ_by_a_row_at_most(lengths: Lengths, size: int) -> None:
    groups = spread(lengths, size, np.random.default_rng(0))
    sizes = (groups != NO_ROW).sum(axis=1)
    assert sorted(groups[groups != NO_ROW]) == list(range(len(lengths)))
    assert sizes.max() - sizes.min() <= 1
    assert sizes.max() <= size
    assert len(sizes) == -(-len(lengths) // size)


@pytest.mark.parametrize("data", ["alpaca/alpaca_en_demo.json", "wikisql"])
@pytest.mark.slow
def test_waste_is_under_five_percent_on_ragged_chat_data(data: str) -> None:
    """mlx-lm 0.32 iterate_batches: 25% padding waste."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(assets_folder() / "tokenizers/minimind")
    lengths = loaded(assets_folder() / "data" / data, tokenizer).train.lengths_B
    steps = epoch_of(lengths, batch_size=4, grad_accum=2, seed=0, epoch=1, by_length=True)
    assert padding_waste(lengths, steps.batches) < 0.05


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


@given(lengths=LENGTHS, batch=SIZES, by_length=BY_LENGTH)
def test_the_waste_of_a_plan_is_that_of_its_batches(lengths: Lengths, batch: int, by_length: bool) -> None:
    steps = epoch_of(lengths, batch_size=batch, grad_accum=1, seed=0, epoch=1, by_length=by_length)
    rows = [row(length) for length in lengths]
    made = [collate(rows, indices) for step in steps for indices in step]
    used, positions = int(lengths.sum()), sum(each.tokens_BT.size for each in made)
    assert padding_waste(lengths, steps.batches) == pytest.approx(1 - used / positions)


@given(lengths=LENGTHS, batch=SIZES, by_length=BY_LENGTH)
def test_evaluation_sees_every_row_once(lengths: Lengths, batch: int, by_length: bool) -> None:
    batches = eval_batches(lengths, batch_size=batch, by_length=by_length)
    assert sorted(chain.from_iterable(batches)) == list(range(len(lengths)))
    assert all(len(rows) <= batch for rows in batches)


@given(lengths=LENGTHS, batch=SIZES, by_length=BY_LENGTH)
def test_the_longest_row_of_a_batch_is_its_first(lengths: Lengths, batch: int, by_length: bool) -> None:
    """Rows of one length lie side by side, and the check at the start tries the shortest far back."""
    steps = epoch_of(lengths, batch_size=batch, grad_accum=2, seed=0, epoch=1, by_length=by_length)
    for rows in (*chain.from_iterable(steps), *eval_batches(lengths, batch_size=batch, by_length=by_length)):
        assert [lengths[row] for row in rows] == sorted((lengths[row] for row in rows), reverse=True)

"""How many floating-point operations a training step takes in its matrix products, counted from shapes."""

from collections.abc import Sequence

from mlxtune.bench.sides.spec import Case


def step_flops(case: Case, lengths: Sequence[int], head_positions: int, *, frozen_layers_run: bool, head: bool) -> int:
    """Of one step; an addition and a multiplication are two.

    lengths: positions of each row that the layers compute, padding included. head: whether the head trains.

        P elements of a layer's matrices, R of its adapters, S sum of lengths, Q sum of their squares,
        D hidden size, V vocabulary, N head_positions

        layer, forward               2 P S + 2 D Q    scores and values, of which a causal mask leaves half
        backward to its input        2 P S + 4 D Q
        backward to its matrices     2 P S            not with LoRA
        LoRA                         6 R S            forward, and backward to both
        head, forward and backward   4 D V N          and 2 D V N more where it trains

    Left out: norms, activations, softmax, the optimizer, and what a backend saves below the first trained matrix.

    >>> case = Case("a", "", 10, last_n=1, layers=2, hidden=4, inner=8, heads=2, kv_heads=1)
    >>> matrices(case)          # queries, keys, values, output; gate, up, down
    [(4, 4), (4, 2), (4, 2), (4, 4), (4, 8), (4, 8), (8, 4)]
    >>> step_flops(case, [3], 0, frozen_layers_run=False, head=False) == 6 * 144 * 3 + 6 * 4 * 9
    True
    """
    read, squares = sum(lengths), sum(length * length for length in lengths)
    elements = sum(n_in * n_out for n_in, n_out in matrices(case))
    adapters = case.lora_rank * sum(n_in + n_out for n_in, n_out in matrices(case))
    forward = 2 * elements * read + 2 * case.hidden * squares
    backward = 2 * elements * read + 4 * case.hidden * squares
    of_matrices = 6 * adapters * read if case.lora_rank else 2 * elements * read
    frozen = (case.layers - case.last_n) * forward if frozen_layers_run else 0
    trained = case.last_n * (forward + backward + of_matrices)
    return frozen + trained + (6 if head else 4) * case.hidden * case.vocabulary * head_positions


def matrices(case: Case) -> list[tuple[int, int]]:
    """(in, out) of a layer's matrices."""
    hidden, inner = case.hidden, case.inner
    kv = hidden // case.heads * case.kv_heads
    attention = [(hidden, hidden), (hidden, kv), (hidden, kv), (hidden, hidden)]
    return [*attention, (hidden, inner), (hidden, inner), (inner, hidden)]

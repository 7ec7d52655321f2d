"""The check at the start of every run: which form of the passes is exact for this model, seen by trying it.

The reference is the whole model on one short row alone, as anybody would run it. Cutting at a layer must give the same
bits. Packed, that row comes last, after rows that make the longest sequence of the training: its logits, and one
gradient of their loss, must agree within rounding; its logits alone, where the validation has a longer one. The first
form of LADDER that holds is taken; what failed before it is said.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten, tree_unflatten

from mlxtune.backends.decisions import About
from mlxtune.backends.mlx.head.probe import FoundHead
from mlxtune.backends.mlx.passes.forward import WHOLE, Form, Forward
from mlxtune.backends.mlx.passes.stand_in import Call
from mlxtune.backends.row_file import Tokens
from mlxtune.data.types import Batch
from mlxtune.errors import BadModel

SPLIT = WHOLE._replace(split=True)
GATHERED = WHOLE._replace(gathered=True)
LADDER = (
    Form(split=True, packed=True, gathered=True, sharded=True),
    Form(split=True, packed=True, gathered=True, sharded=False),
    Form(split=True, packed=False, gathered=True, sharded=True),
    GATHERED._replace(split=True),
    SPLIT,
    Form(split=False, packed=True, gathered=True, sharded=True),
    Form(split=False, packed=True, gathered=True, sharded=False),
    Form(split=False, packed=False, gathered=True, sharded=True),
    GATHERED,
    WHOLE,
)
COMPARED_TOKENS = 48
# Root of the mean square, relative. Over eleven architectures rounding gave up to 4e-6, 0.004 and 0.044 of the logits
# and 2e-5, 0.011 and 0.15 of the gradient, in float32, float16 and bfloat16; rows that see each other gave from 0.05
# of the logits and 0.7 of the gradient in each, and positions that are off 0.03 and 0.22. Of the largest entries
# alone, rounding and faults cannot be told apart in bfloat16.
LOGITS_WITHIN = {mx.float32: 1e-4, mx.float16: 2e-2, mx.bfloat16: 5e-2}
GRADIENT_WITHIN = {mx.float32: 1e-3, mx.float16: 5e-2, mx.bfloat16: 0.2}


Around = Callable[[Forward], dict[int, Call]]


def _nothing(_: Forward) -> dict[int, Call]:
    return {}


class Outcome(NamedTuple):
    logits_NV: mx.array
    loss: mx.array
    gradient: mx.array  # of the summed loss, for one parameter


class Checked(NamedTuple):
    form: Form
    head: FoundHead | None  # for the sharded form
    why: dict[About, str]  # what was not exact, and by how much


class SelfCheck(NamedTuple):
    """What the forms are tried on. parameter: the one whose gradient is compared. forget: see `unread`.

    around: what is called in the layers' places, see `Forward`: computed again, the longest rows take little memory.
    evaluated: as rows, for a forward pass alone: with a gradient it could take more than any step of the run.
    """

    model: nn.Module
    first: int  # the first layer with anything that trains
    parameter: str
    rows: Batch  # the last of which is compared; only it carries loss
    forget: Callable[[], None]
    head: FoundHead | None
    around: Around = _nothing
    evaluated: Batch | None = None

    def best(self) -> Checked:
        """The first form of the ladder that agrees with the whole model."""
        self.model.eval()
        whole = self._whole()
        split_fault = self._split_fault(whole) if self.first else None
        faults: dict[Form, str] = {}
        for form in LADDER:
            if (form.split and (split_fault or not self.first)) or (form.sharded and self.head is None):
                continue
            fault = self._fault(whole, form)
            if fault is None:
                break
            faults[form] = fault
        why = dict(_missing(form, faults))
        if split_fault:
            why["prefix"] = f"The frozen layers run in each step, as they cannot be run apart: {split_fault}."
        return Checked(form, self.head if form.sharded else None, why)

    def _whole(self) -> Outcome:
        """The reference. Some of mlx-lm's code runs in its own generation alone."""
        try:
            return self._outcome(WHOLE, alone=True)
        except (AttributeError, IndexError, KeyError, TypeError) as error:
            raise BadModel(
                type(self.model).__module__,
                expected="code that computes the logits of a row",
                found=f"that it fails, {type(error).__name__}: {error}".splitlines()[0],
                remedy="This architecture of mlx-lm cannot be trained; another version of mlx-lm may have it mended.",
            ) from error

    def _split_fault(self, whole: Outcome) -> str | None:
        """The model cut in two, and otherwise as it is, must give the whole model's bits."""
        try:
            forward = Forward(self.model, self.first, SPLIT)
            layout = forward.lay_out(_last(self.rows))
            if forward.between(layout, None, self.first).shape[:-1] != layout.tokens.shape:
                return "they hand on more than one hidden state for a token"
            found = self._outcome(SPLIT, alone=True)
        except Exception as error:
            return f"its code fails on it, {type(error).__name__}"
        same = bool(mx.array_equal(found.logits_NV, whole.logits_NV, equal_nan=True).item())
        return None if same else "cut at the first trained layer, the model gives other logits"

    def _fault(self, whole: Outcome, form: Form) -> str | None:
        """Why a form is not exact. What computing again alone gets wrong is not the form's fault."""
        fault = self._fault_with(whole, form, self.around)
        return self._fault_with(whole, form, _nothing) if fault and self.around is not _nothing else fault

    def _fault_with(self, whole: Outcome, form: Form, around: Around) -> str | None:
        try:
            found = self._outcome(form, around)
        except Exception as error:
            return f"its code fails on it, {type(error).__name__}"
        logits, loss, gradient = (_difference(a, b) for a, b in zip(found, whole, strict=True))
        dtype = whole.logits_NV.dtype
        if not max(logits, loss) <= LOGITS_WITHIN[dtype]:
            return f"logits differ by {logits:.1g}"
        if not gradient <= GRADIENT_WITHIN[dtype]:
            return f"a gradient differs by {gradient:.1g}"
        if self.evaluated is None or not form.packed:
            return None
        logits = _difference(self._logits(form, self.evaluated), self._logits(WHOLE, _last(self.evaluated)))
        return None if logits <= LOGITS_WITHIN[dtype] else f"logits far on differ by {logits:.1g}"

    def _logits(self, form: Form, rows: Batch) -> mx.array:
        forward = Forward(self.model, self.first, form, self.head)
        layout = forward.lay_out(rows)
        logits_NV = forward.logits(layout, forward.prefix(layout))
        self.forget()
        mx.eval(logits_NV)
        return logits_NV

    def _outcome(self, form: Form, around: Around = _nothing, *, alone: bool = False) -> Outcome:
        forward = Forward(self.model, self.first, form, self.head)
        forward.around = around(forward)
        layout = forward.lay_out(_last(self.rows) if alone else self.rows)
        hidden = forward.prefix(layout)

        def loss(weight: mx.array) -> tuple[mx.array, mx.array]:
            self._put(weight)
            return forward.loss_and_logits(layout, hidden)

        weight = dict(tree_flatten(self.model.parameters()))[self.parameter]
        try:
            (loss_sum, logits_NV), gradient = mx.value_and_grad(loss)(weight)
        finally:
            self._put(weight)
            self.forget()  # the graph alone holds the frozen weights now: it reads each in its turn and lets go of it
        mx.eval(loss_sum, logits_NV, gradient)
        return Outcome(logits_NV, loss_sum, gradient)

    def _put(self, weight: mx.array) -> None:
        self.model.update(tree_unflatten([(self.parameter, weight)]))


def _missing(form: Form, faults: Mapping[Form, str]) -> Iterator[tuple[About, str]]:
    """What the form does without, and the fault of the last that was tried with it."""
    words: dict[About, str] = {
        "packed": "Rows are padded, not packed",
        "gathered": "The head is computed on all tokens",
        "sharded": "The head is computed whole, not in shards",
    }
    for what, without in words.items():
        tried = [fault for other, fault in faults.items() if getattr(other, what) and not getattr(form, what)]
        if tried:
            yield what, f"{without}: for this model that would not be exact ({tried[-1]})."


def _difference(found: mx.array, expected: mx.array) -> float:
    """Relative, as root of the mean square. What is not a number in both, the run will tell."""
    neither = mx.isnan(found) & mx.isnan(expected)
    found, expected = (mx.where(neither, 0.0, array.astype(mx.float32)) for array in (found, expected))
    size = float(mx.linalg.norm(expected.reshape(-1)).item())  # type: ignore[arg-type]  # a real scalar
    return float(mx.linalg.norm((found - expected).reshape(-1)).item()) / max(size, 1e-30)  # type: ignore[arg-type]


def some_rows(n_vocabulary: int) -> list[Tokens]:
    """Rows for a check where the run's own are not known."""
    random = np.random.default_rng(0)
    return [random.integers(0, n_vocabulary, length).astype(np.int32) for length in (13, 9)]


def for_check(rows: Sequence[Tokens]) -> Batch:
    """The rows with the last cut in two, so that what is compared is short and as far back as any row can be."""
    *others, last = rows
    parts = [last] if len(last) <= COMPARED_TOKENS else [last[COMPARED_TOKENS - 1 :], last[:COMPARED_TOKENS]]
    parts = [part for part in (*others, *parts) if len(part) > 1]
    lengths_B = np.array([len(part) for part in parts], np.int32)
    supervised_N = np.zeros(int(lengths_B.sum()), np.bool_)
    supervised_N[1 - lengths_B[-1] :] = True
    return Batch(tuple(range(len(parts))), np.concatenate(parts), supervised_N, lengths_B, int(lengths_B.max()))


def _last(batch: Batch) -> Batch:
    """The last row, alone."""
    length = int(batch.lengths_B[-1])
    return Batch(batch.rows[-1:], batch.tokens_N[-length:], batch.supervised_N[-length:], batch.lengths_B[-1:], length)

"""Bytes of a run on NumPy: what it holds, and its working arrays, whose table is in `memory.workspace`.

Both are counted to the byte as `NumpyLearner.memory` counts them. Intermediates that live within one expression are in
neither. Working arrays only grow and are not given back, so that the last moment is the largest.
"""

from collections.abc import Mapping, Sequence
from itertools import chain

from mlxtune.backends.numpy.layout import FLOAT_BYTES
from mlxtune.memory import workspace
from mlxtune.memory.parts import Parts
from mlxtune.memory.setup import Rows, Setup, rows_of


def moments(
    setup: Setup, rows: Rows, evaluated: Rows | None, kept_tokens: int = 0, windows: Sequence[int | None] = ()
) -> dict[str, Parts]:
    """What is held at each moment of a run that can be its largest.

    evaluated: the largest batch of the validation; None where there is none. kept_tokens: see `resident`. windows: of
    each layer's attention, as the backend's config says; without them all keys are seen, which takes more.
    """
    held = resident(setup, kept_tokens)
    of_step = workspace.largest(workspace.loss_and_gradients(setup, rows, windows))
    found = {"step": held.plus(_working(of_step))}
    if evaluated is not None:
        grown = workspace.largest(chain(of_step.items(), workspace.loss(setup, evaluated, windows)))
        found["evaluation"] = held.plus(_working(grown))
    if setup.sampled_tokens:
        prompt = workspace.loss(setup, rows_of([setup.sampled_tokens + 1], 1, 1), windows)
        grown = workspace.largest(chain(of_step.items(), prompt))
        caches = Parts(activations=FLOAT_BYTES * setup.cached_elements)
        found["sample"] = held.plus(_working(grown)).plus(caches)
    return found


def resident(setup: Setup, kept_tokens: int = 0) -> Parts:
    """What is there between two steps, but for working arrays.

    The buffers of gradients are there from the start, and frozen layers stay even where their output is kept.
    kept_tokens: read in the distinct rows whose frozen layers' output is kept, of training and validation.
    """
    trained, frozen = _trained(setup), _frozen(setup)
    masters = 0 if setup.selection.adapters else setup.optimizer.master_bytes
    return Parts(
        frozen_weights=FLOAT_BYTES * frozen,
        trainable_weights=FLOAT_BYTES * trained,
        gradients=FLOAT_BYTES * trained * (2 if setup.accumulates else 1),
        optimizer=(setup.optimizer.slot_bytes + masters) * trained,
        data=FLOAT_BYTES * kept_tokens * setup.dimensions.hidden_size,
    )


def _trained(setup: Setup) -> int:
    """Elements."""
    base, selection = setup.anatomy.parameters, setup.selection
    untied_head = base[setup.anatomy.embedding].size if selection.untie_head else 0
    adapters = sum(adapter.size for adapter in selection.adapters)
    return sum(base[name].size for name in selection.train) + adapters + untied_head


def _frozen(setup: Setup) -> int:
    trains = frozenset(setup.selection.train)
    return sum(parameter.size for name, parameter in setup.anatomy.parameters.items() if name not in trains)


def _working(sizes: Mapping[str, int]) -> Parts:
    head = sum(sizes.get(name, 0) for name in workspace.OF_THE_HEAD)
    return Parts(activations=FLOAT_BYTES * (sum(sizes.values()) - head), head_loss=FLOAT_BYTES * head)

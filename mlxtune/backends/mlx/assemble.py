"""From a model's names and shapes to a network that computes: its weights, its adapters, its passes, its prefix."""

from collections.abc import Callable
from typing import NamedTuple

from mlxtune.backends.base import Job, Work
from mlxtune.backends.decisions import About, Decisions
from mlxtune.backends.mlx import device
from mlxtune.backends.mlx.head import untie as head
from mlxtune.backends.mlx.head.probe import probe
from mlxtune.backends.mlx.model import lora
from mlxtune.backends.mlx.model.lazy_weights import Unread
from mlxtune.backends.mlx.model.load import PRECISIONS, load_lazily
from mlxtune.backends.mlx.passes.choose import Passes, RowsToCheck, names
from mlxtune.backends.mlx.passes.network import Network
from mlxtune.backends.mlx.passes.self_check import some_rows
from mlxtune.backends.mlx.prefix.keeping import Keeping, not_kept
from mlxtune.backends.mlx.prefix.prefix import Kept, Prefix
from mlxtune.backends.row_file import KEPT
from mlxtune.events import Event
from mlxtune.storage.one_writer import drop_older
from mlxtune.strategies.selection import Anatomy, Selection

Tell = Callable[[Event], None]
Say = Callable[[str], None]


class Parts(NamedTuple):
    """What a learner is made of, by names and shapes. decisions: what is to be expected."""

    job: Job
    anatomy: Anatomy
    selection: Selection
    work: Work | None
    decisions: Decisions
    keeping: Keeping | None


class Assembled(NamedTuple):
    """A network that computes. unread: the frozen layers' weights. decisions: what turned out to be so."""

    network: Network
    unread: Unread
    decisions: Decisions


def assemble(parts: Parts, tell: Tell, say: Say) -> Assembled:
    """Read what trains, find the exact form of the passes by trying it, and compute once what is kept.

    say: hears, while the network is used, what becomes of the frozen layers' output.
    """
    job, selection = parts.job, parts.selection
    device.hold_in_memory()
    device.forget_peak()
    model = load_lazily(job.folder, job.precision)
    unread = Unread(model, job.folder, job.precision, _before_the_first(parts))
    unread.read_the_rest()
    if selection.untie_head:
        head.untie(model, parts.anatomy)
    found = probe(model)
    lora.attach(model, selection.adapters, job.seed)
    passes = Passes(model, parts.anatomy, selection, rows_to_check(parts), unread)
    forward, why = passes.forward(found, checkpoints=parts.decisions.checkpoints)
    prefix = Prefix(forward, PRECISIONS[job.precision])
    if parts.keeping is not None and forward.form.split:
        why |= _keep(parts, prefix, Kept(*parts.keeping, unread, tell, say))
    if prefix.file is None:
        unread.read()
    decisions = parts.decisions._replace(keeps_prefix=prefix.file is not None, packs_rows=forward.form.packed)
    decisions = decisions.because(why)
    return Assembled(Network(model, forward, prefix, names(selection)), unread, decisions)


def _before_the_first(parts: Parts) -> list[str]:
    """Prefixes of the frozen layers before the first that trains, and of the embedding that enters them."""
    layers = [*parts.anatomy.layers[: parts.selection.first_layer]]
    return [*layers, parts.anatomy.embedding] if layers else []  # a tied head reads the embedding in its first pass


def rows_to_check(parts: Parts) -> RowsToCheck:
    """The rows on which the form of the passes is tried: the run's largest, or any where there are none."""
    if parts.work is None:
        return RowsToCheck(some_rows(parts.anatomy.parameters[parts.anatomy.embedding].shape[0]), ())
    return RowsToCheck.of(parts.work.largest, parts.work.evaluated)


def _keep(parts: Parts, prefix: Prefix, kept: Kept) -> dict[About, str]:
    """Make or find the file of the frozen layers' output; says why there is none, if it cannot be written."""
    try:
        prefix.keep_in(kept)
        drop_older(kept.file.folder, KEPT)
    except OSError as fault:
        found = fault.strerror or str(fault)
        if parts.job.prefix_cache == "on":
            raise not_kept(kept.file, found) from fault
        lost = f"The frozen layers' output is not kept in {kept.file.folder.parent} ({found}): each step computes it."
        return {"prefix": lost}
    return {}

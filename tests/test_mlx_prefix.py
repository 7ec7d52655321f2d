"""The frozen layers' output: computed once, kept in a file, found again; never another number for it."""

import gc
import json

import mlx.core as mx
import numpy as np
import pytest

from mlxtune.backends.base import Job, Work
from mlxtune.backends.mlx import prefix
from mlxtune.backends.mlx.learner import OTHER_FORM, MlxLearner
from mlxtune.data.batches import collate
from mlxtune.data.types import TokenRow
from mlxtune.errors import BadSetting
from mlxtune.events import Preparing
from mlxtune.optim.adamw import AdamW
from mlxtune.storage import write_tensors
from mlxtune.strategies.full import Full
from mlxtune.strategies.last_n import LastN
from tests.support_models import VOCABULARY, contents, write_model

LENGTHS = (24, 17, 9, 20, 31, 12, 17, 5)


def rows(seed=0):
    random = np.random.default_rng(seed)
    made = []
    for length in LENGTHS:
        tokens = random.integers(3, VOCABULARY, length).astype(np.int32)
        made.append(TokenRow(tokens, np.arange(length) >= 3, "rows.jsonl:1"))
    return made


def work(of=None, passes=100):
    of = rows() if of is None else of
    largest = collate(of, (4, 0))
    return Work(of, largest, None, int(largest.lengths_B.sum()), passes, "fingerprint of the model")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MLXTUNE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def make(tmp_path, cache):
    assert not cache.exists()
    write_model(tmp_path / "model", num_hidden_layers=6)

    def learner(strategy=None, precision="fp32", keep="auto", asked=None):
        strategy = strategy or LastN(last_n=1)
        made = MlxLearner(Job(tmp_path / "model", precision, strategy, AdamW(), None, 0, keep))
        if asked is not False:
            made.plan(asked or work())
        return made

    return learner


def trained(learner):
    learner.prepare()
    for indices in ((4, 0), (1, 6), (3, 5), (2, 7), (4, 1)):
        learner.step([collate(rows(), indices)], 1e-3)
    return contents(learner)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_training_from_the_file_gives_the_losses_of_training_without_it(make, precision):
    learner, without = make(precision=precision), make(precision=precision, keep="off")
    learner.prepare()
    without.prepare()
    assert learner.network.prefix.file is not None
    assert without.network.prefix.file is None
    for indices in ((4, 0), (1, 6), (3, 5)):
        batch = collate(rows(), indices)
        kept, computed = learner.step([batch], 1e-3).loss.loss_sum, without.step([batch], 1e-3).loss.loss_sum
        assert kept == pytest.approx(computed, rel=1e-6 if precision == "fp32" else 1e-2)


def test_a_second_run_finds_the_file_and_ends_with_the_same_bytes(make, monkeypatch):
    first = trained(make())
    monkeypatch.setattr(prefix.Prefix, "_run", None)  # it would fail if anything were computed again
    again = make()
    assert any("from an earlier run" in note for note in again.notes)
    assert trained(again) == first


def test_a_pass_that_was_killed_goes_on_and_gives_the_same_file(make, cache, monkeypatch):
    whole = trained(make())
    content = {path.name: path.read_bytes() for path in cache.rglob("hidden-*.bin")}
    for path in cache.rglob("*.*"):
        path.unlink()
    run, calls = prefix.Prefix._run, []

    def killed(self, rows, begin, end, stage, following):
        calls.append((stage, begin))
        if len(calls) == 6:
            raise KeyboardInterrupt
        run(self, rows, begin, end, stage, following)

    monkeypatch.setattr(prefix, "NOTE_EVERY", 1)
    monkeypatch.setattr(prefix.Prefix, "_run", killed)
    with pytest.raises(KeyboardInterrupt):
        make().prepare()
    done = calls[:5]
    assert trained(make()) == whole
    assert not set(done) & set(calls[6:]), "what was done is not done again"
    assert {path.name: path.read_bytes() for path in cache.rglob("hidden-*.bin")} == content


@pytest.mark.parametrize("change", ["rows", "layers", "type", "model"])
def test_what_changes_makes_another_file(make, change):
    first, other = make(), rows(seed=1)
    changed = {
        "rows": lambda: make(asked=work(other)),
        "layers": lambda: make(LastN(last_n=2)),
        "type": lambda: make(precision="bf16"),
        "model": lambda: make(asked=work()._replace(model_fingerprint="another")),
    }[change]()
    assert changed.keeping.file.folder != first.keeping.file.folder


def test_files_of_settings_that_are_gone_are_dropped(make, cache):
    for seed in range(4):
        make(asked=work(rows(seed))).prepare()
    assert len(list(cache.rglob("about.json"))) == 2


def test_auto_keeps_nothing_where_it_does_not_pay_and_says_so(make):
    learner = make(asked=work(passes=len(LENGTHS)))
    assert learner.keeping is None
    assert any("do not pay" in note for note in learner.notes)
    assert make(keep="on", asked=work(passes=1)).keeping is not None


def test_a_disk_without_room_is_refused_or_does_without(make, monkeypatch):
    monkeypatch.setattr("mlxtune.backends.mlx.keeping.free_bytes", lambda _: 10_000)
    with pytest.raises(BadSetting, match=r"(?s)free for the output of the first 5 layers.*--prefix-cache off"):
        make(keep="on")
    learner = make()
    assert learner.keeping is None
    assert any("on the disk" in note for note in learner.notes)


def test_nothing_is_kept_where_the_first_layer_trains(make):
    assert make(Full()).keeping is None
    with pytest.raises(BadSetting, match="frozen layers"):
        make(Full(), keep="on")


def test_a_damaged_note_means_that_the_work_is_done_again(make, cache):
    whole = trained(make())
    (about,) = cache.rglob("about.json")
    about.write_text(json.dumps({"stage": 5}))
    assert trained(make()) == whole


def test_the_progress_is_told_from_the_first_row_to_the_last(make):
    heard = []
    make().prepare(heard.append)
    assert all(isinstance(event, Preparing) for event in heard)
    done = [event.done for event in heard]
    assert done == sorted(done)
    assert done[-1] == heard[-1].total == 5 * len(LENGTHS)


def active_bytes():
    """Without what was let go and waits to be freed."""
    gc.collect()
    mx.synchronize()
    mx.clear_cache()
    return mx.get_active_memory()


def test_frozen_weights_are_not_in_memory_while_training_from_the_file(make):
    others = active_bytes()  # of other tests of this process
    learner = make()
    learner.prepare()
    learner.step([collate(rows(), (4, 0))], 1e-3)
    held = active_bytes() - others
    resident = make(keep="off")
    resident.prepare()
    frozen = sum(
        parameter.bytes
        for name, parameter in learner.anatomy.parameters.items()
        if name.startswith(learner.anatomy.layers[: learner.selection.first_layer])
    )
    assert active_bytes() - others - held > 0.9 * frozen
    assert held < resident_bytes(learner) + 0.2 * frozen


def resident_bytes(learner):
    """What must be there: all but the frozen layers and the embedding, and the moments."""
    gone = (*learner.anatomy.layers[: learner.selection.first_layer], learner.anatomy.embedding)
    kept = sum(p.bytes for name, p in learner.anatomy.parameters.items() if not name.startswith(gone))
    return kept + sum(2 * weight.nbytes for weight in learner.trained.weights.values())


def test_a_run_that_goes_on_in_another_form_says_that_its_last_bits_may_differ(make, tmp_path):
    begun = make()
    begun.prepare()
    for keep, said in (("auto", False), ("off", True)):
        again = make(keep=keep)
        again.prepare()
        for name, tensors in (("w.safetensors", begun.weights()), ("o.safetensors", begun.optimizer_state())):
            write_tensors(tmp_path / name, tensors)
        again.restore(tmp_path / "w.safetensors", tmp_path / "o.safetensors", begun.scalars())
        assert any(OTHER_FORM in note for note in again.notes) == said

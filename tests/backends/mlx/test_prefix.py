"""The frozen layers' output: computed once, kept in a file, found again; never another number for it."""

import errno
import gc
import json
import shutil
from typing import NamedTuple

import mlx.core as mx
import numpy as np
import pytest

from mlxtune.backends.base import Job, Work
from mlxtune.backends.decisions import Passes
from mlxtune.backends.mlx.blueprint import MlxBlueprint
from mlxtune.backends.mlx.learner import OTHER_FORM
from mlxtune.backends.mlx.prefix import prefix
from mlxtune.data.batches import collate
from mlxtune.data.token_rows import listed
from mlxtune.data.types import TokenRow
from mlxtune.errors import BadSetting
from mlxtune.events import Notice, Preparing, ignore
from mlxtune.optim.adamw import AdamW
from mlxtune.storage.files import write_tensors
from mlxtune.strategies.full import Full
from mlxtune.strategies.last_n import LastN
from tests.support.mlx import VOCABULARY, contents, write_model

LENGTHS = (24, 17, 9, 20, 31, 12, 17, 5)


def rows(seed=0):
    random = np.random.default_rng(seed)
    made = []
    for length in LENGTHS:
        tokens = random.integers(3, VOCABULARY, length).astype(np.int32)
        made.append(TokenRow(tokens, np.arange(length) >= 3, "rows.jsonl:1"))
    return made


def work(of=None, passes=100):
    of = listed(rows() if of is None else of)
    largest = collate(of, (4, 0))
    return Work(of, largest, None, int(largest.lengths_B.sum()), Passes(passes, len(of)), "fingerprint of the model")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MLXTUNE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def make(tmp_path, cache):
    assert not cache.exists()
    write_model(tmp_path / "model", num_hidden_layers=6)

    def making(strategy=None, precision="fp32", keep="auto", asked=None):
        strategy = strategy or LastN(last_n=1)
        blueprint = MlxBlueprint(Job(tmp_path / "model", precision, strategy, AdamW(), None, 0, keep))
        return Made(blueprint, asked or work())

    return making


class Made(NamedTuple):
    """What a run has before its learner."""

    blueprint: MlxBlueprint
    work: Work

    @property
    def decisions(self):
        return self.blueprint.decide(self.work)

    @property
    def keeping(self):
        return self.blueprint._decided(self.work)[1]

    def learner(self, tell=ignore):
        return self.blueprint.learner(self.work, tell)


def trained(made):
    learner = made.learner()
    for indices in ((4, 0), (1, 6), (3, 5), (2, 7), (4, 1)):
        learner.step([collate(rows(), indices)], 1e-3)
    return contents(learner)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.slow
def test_training_from_the_file_gives_the_losses_of_training_without_it(make, precision):
    learner, without = make(precision=precision).learner(), make(precision=precision, keep="off").learner()
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
    assert any("from an earlier run" in note for note in again.decisions.notes)
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
        make().learner()
    done = calls[:5]
    assert trained(make()) == whole
    assert not set(done) & set(calls[6:]), "what was done is not done again"
    assert {path.name: path.read_bytes() for path in cache.rglob("hidden-*.bin")} == content


def test_a_pass_that_was_killed_and_then_damaged_begins_anew(make, cache, monkeypatch):
    whole, run = trained(make()), prefix.Prefix._run
    shutil.rmtree(cache)

    def killed(self, file, begin, end, stage, following):
        if stage == 4:
            raise KeyboardInterrupt
        run(self, file, begin, end, stage, following)

    monkeypatch.setattr(prefix.Prefix, "_run", killed)
    with pytest.raises(KeyboardInterrupt):
        make().learner()
    monkeypatch.setattr(prefix.Prefix, "_run", run)
    (path,) = cache.rglob("*.work/hidden-*.bin")
    path.write_bytes(bytes(path.stat().st_size))
    assert trained(make()) == whole


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


@pytest.mark.slow
def test_files_of_settings_that_are_gone_are_dropped(make, cache):
    for seed in range(4):
        make(asked=work(rows(seed))).learner()
    assert len(list(cache.rglob("about.json"))) == 2


def test_auto_keeps_nothing_where_it_does_not_pay_and_says_so(make):
    made = make(asked=work(passes=len(LENGTHS)))
    assert not made.decisions.keeps_prefix
    assert any("do not pay" in note for note in made.decisions.notes)
    assert make(keep="on", asked=work(passes=1)).keeping is not None


def test_a_disk_without_room_is_refused_or_does_without(make, monkeypatch):
    monkeypatch.setattr("mlxtune.backends.mlx.prefix.keeping.free_bytes", lambda _: 10_000)
    with pytest.raises(BadSetting, match=r"(?s)free for the output of the first 5 layers.*--prefix-cache off"):
        make(keep="on").decisions  # noqa: B018 - it raises
    made = make()
    assert not made.decisions.keeps_prefix
    assert any("on the disk" in note for note in made.decisions.notes)


def test_nothing_is_kept_where_the_first_layer_trains(make):
    """That it is asked for is refused before, on both backends alike."""
    assert make(Full()).keeping is None


def test_a_damaged_note_means_that_the_work_is_done_again(make, cache):
    whole = trained(make())
    (about,) = cache.rglob("about.json")
    about.write_text(json.dumps({"stage": 5}))
    assert trained(make()) == whole


@pytest.mark.parametrize("last_n", [1, 3])  # five frozen layers, in two stages; three, in one
@pytest.mark.parametrize("place", [0.0, 0.5])
@pytest.mark.few(2)
def test_rows_damaged_while_training_are_computed_again_to_the_same_bytes_and_it_is_said_once(
    make, cache, place, last_n
):
    whole = trained(make(LastN(last_n=last_n)))
    heard = []
    learner = make(LastN(last_n=last_n)).learner(heard.append)
    (path,) = cache.rglob("hidden-*.bin")
    content = path.read_bytes()
    with path.open("r+b") as file:
        file.seek(int(place * len(content)))
        file.write(bytes(400))
    for indices in ((4, 0), (1, 6), (3, 5), (2, 7), (4, 1)):
        batch = collate(rows(), indices)
        learner.read_ahead([batch])
        learner.step([batch], 1e-3)
    assert contents(learner) == whole
    said = [event.text for event in heard if isinstance(event, Notice)]
    assert len(said) == 1
    assert "damaged" in said[0]
    (path,) = cache.rglob("hidden-*.bin")
    assert path.read_bytes() == content


def test_a_file_cut_short_between_two_runs_is_made_anew_and_it_is_said(make, cache):
    whole = trained(make())
    (path,) = cache.rglob("hidden-*.bin")
    path.write_bytes(path.read_bytes()[:-1])
    again = make()
    assert any("damaged" in note for note in again.decisions.notes)
    assert trained(again) == whole


def full_disk(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("when", ["before training", "while training"])
def test_a_disk_that_fills_up_makes_each_step_compute_what_it_needs(make, cache, monkeypatch, when):
    without, heard = make(keep="off").learner(), []
    if when == "before training":
        monkeypatch.setattr("mlxtune.backends.row_file.os.pwrite", full_disk)
    learner = make().learner(heard.append)
    if when == "while training":
        monkeypatch.setattr("mlxtune.backends.row_file.os.pwrite", full_disk)
        (path,) = cache.rglob("hidden-*.bin")
        path.write_bytes(bytes(path.stat().st_size))
    for indices in ((4, 0), (1, 6)):
        batch = collate(rows(), indices)
        lost, computed = learner.step([batch], 1e-3), without.step([batch], 1e-3)
        assert lost.loss.loss_sum == pytest.approx(computed.loss.loss_sum, rel=1e-6)
    said = [*learner.decisions.notes, *(event.text for event in heard if isinstance(event, Notice))]
    assert any("No space left" in each for each in said)
    assert learner.network.prefix.file is None


def test_a_disk_that_fills_up_is_refused_where_keeping_was_asked_for(make, monkeypatch):
    monkeypatch.setattr("mlxtune.backends.row_file.os.pwrite", full_disk)
    with pytest.raises(BadSetting, match=r"(?s)No space left.*--prefix-cache off"):
        make(keep="on").learner()


def test_a_cache_folder_that_may_not_be_written_to_is_used_as_far_as_it_goes(make, monkeypatch):
    whole = trained(make())
    monkeypatch.setattr("mlxtune.backends.mlx.prefix.keeping.writable", lambda _: False)
    assert trained(make()) == whole
    other = make(asked=work(rows(1)))
    assert other.keeping is None
    assert any("may not be written" in note for note in other.decisions.notes)
    with pytest.raises(BadSetting, match="may not be written"):
        make(keep="on", asked=work(rows(1))).decisions  # noqa: B018 - it raises


def test_a_cache_folder_that_is_a_file_makes_each_step_compute_what_it_needs(make, cache):
    cache.write_text("")
    learner = make().learner()
    assert learner.network.prefix.file is None


def test_the_progress_is_told_from_the_first_row_to_the_last(make):
    heard = []
    make().learner(heard.append)
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


@pytest.mark.slow
def test_frozen_weights_are_not_in_memory_while_training_from_the_file(make):
    others = active_bytes()  # of other tests of this process
    learner = make().learner()
    learner.step([collate(rows(), (4, 0))], 1e-3)
    held = active_bytes() - others
    resident = make(keep="off").learner()
    frozen = sum(
        parameter.bytes
        for name, parameter in learner.parts.anatomy.parameters.items()
        if name.startswith(learner.parts.anatomy.layers[: learner.parts.selection.first_layer])
    )
    assert active_bytes() - others - held > 0.9 * frozen
    del resident
    assert held < resident_bytes(learner) + 0.2 * frozen


def resident_bytes(learner):
    """What must be there: all but the frozen layers and the embedding, and the moments."""
    gone = (*learner.parts.anatomy.layers[: learner.parts.selection.first_layer], learner.parts.anatomy.embedding)
    kept = sum(p.bytes for name, p in learner.parts.anatomy.parameters.items() if not name.startswith(gone))
    return kept + sum(2 * weight.nbytes for weight in learner.trained.weights.values())


def test_a_run_that_goes_on_in_another_form_says_that_its_last_bits_may_differ(make, tmp_path):
    begun = make().learner()
    for keep, said in (("auto", False), ("off", True)):
        again = make(keep=keep).learner()
        for name, tensors in (("w.safetensors", begun.weights()), ("o.safetensors", begun.optimizer_state())):
            (tmp_path / name).unlink(missing_ok=True)
            write_tensors(tmp_path / name, tensors)
        notes = again.restore(tmp_path / "w.safetensors", tmp_path / "o.safetensors", begun.scalars())
        assert any(OTHER_FORM in note for note in notes) == said

"""Samples while a run trains: when they are taken, what is asked, and that nothing else depends on them."""

import json
from pathlib import Path

import numpy as np
import pytest

from mlxtune.backends.base import BackendSettings, Sampling
from mlxtune.backends.choose import has_mlx
from mlxtune.data.types import TokenRow
from mlxtune.errors import BadSetting
from mlxtune.events import Sample, Step
from mlxtune.inference import load
from mlxtune.recipe.recipe import build
from mlxtune.run import session as run
from mlxtune.run.prepare import prepare
from mlxtune.samples import _begun
from mlxtune.speech import Loaded, answer, complete
from tests.support.run import Ask, Keep, last_bytes, recipes, write_rows

BACKENDS = ["numpy", *(["mlx"] if has_mlx() else [])]
EVERY = {"sample__every": 3, "sample__max_tokens": 8}
# A head that trains in shards, frozen layers that are not in memory, dropout that has a random state, 16 bits.
KINDS = {
    "last layer, head untied": {"strategy__head": True, "backend__prefix_cache": "on"},
    "lora with dropout": {"strategy__name": "lora", "strategy__dropout": 0.3},
    "bf16, warm": {"backend__precision": "bf16", "sample__temperature": 1.0},
    "all layers, computed again": {"strategy__last_n": "all", "backend__grad_checkpoint": True},
}


@pytest.fixture
def recipe(tmp_path):
    return recipes(write_rows(tmp_path))


def samples(folder):
    """(step, prompt, text) of each in a run's log."""
    lines = [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]
    return [(line["step"], line["prompt"], line["text"]) for line in lines if line["event"] == "sample"]


def test_samples_are_taken_before_the_first_step_every_so_many_and_after_the_last(recipe):
    keep = Keep()
    end = run.start(recipe(train__max_steps=7, **EVERY), [keep])
    taken = samples(end.run)
    prompts = dict.fromkeys(prompt for _, prompt, _ in taken)
    assert [(step, prompt) for step, prompt, _ in taken] == [(step, each) for step in (0, 3, 6, 7) for each in prompts]
    assert all(prompt.startswith("Once there was a") for prompt in prompts)
    kinds = [(type(e), e.step) for e in keep if isinstance(e, Step | Sample)]
    assert kinds.index((Sample, 3)) == kinds.index((Step, 3)) + 1


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("changes", KINDS.values(), ids=KINDS)
@pytest.mark.few(1)
def test_samples_change_no_byte_of_what_is_trained(recipe, backend, changes):
    if backend == "numpy":
        changes = {key: "auto" if key.endswith("prefix_cache") else value for key, value in changes.items()}
    settings = {"train__max_steps": 3, "backend__name": backend, **changes}
    asked = run.start(recipe("asked", **{**settings, "sample__every": 1, "sample__max_tokens": 6}))
    quiet = {key: value for key, value in settings.items() if not key.startswith("sample")}
    assert last_bytes(asked.run) == last_bytes(run.start(recipe("quiet", **quiet)).run)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("head", [False, True])
@pytest.mark.few(2)
def test_the_last_sample_is_what_the_saved_adapter_says(recipe, backend, head):
    """The learner as it trains, and the model that anyone loads, give the same text."""
    settings = {"backend__name": backend, "strategy__head": head, "data__valid_share": 0, "train__max_steps": 4}
    end = run.start(recipe(**settings, sample__every=4, sample__max_tokens=12, sample__prompts=("Once there was",)))
    loaded = load(None, Path(end.adapter), BackendSettings(name=backend, precision="fp32"))
    assert samples(end.run)[-1][2] == "".join(complete(loaded, "Once there was", Sampling(12, 0.0, 1.0, 0)))


@pytest.mark.parametrize("stop", [2, 3])
@pytest.mark.slow
def test_a_resumed_run_takes_each_sample_once(recipe, stop):
    whole = run.start(recipe("whole", **EVERY))
    broken = recipe("broken", **EVERY)
    run.start(broken, [Ask(stop)])
    run.resume(Path(broken.run.out), {})  # with the settings that its folder keeps
    assert samples(broken.run.out) == samples(whole.run)


@pytest.mark.slow
def test_prompts_of_the_recipe_are_asked_as_generate_asks_them(recipe):
    end = run.start(recipe(**EVERY, sample__prompts=("Once", "The cat")))
    assert [prompt for _, prompt, _ in samples(end.run)[:2]] == ["Once", "The cat"]
    loaded = load(None, None, BackendSettings(name=recipe().backend.name, precision="fp32"))
    assert samples(end.run)[0][2] == "".join(complete(loaded, "Once", Sampling(8, 0.0, 1.0, 0)))


@pytest.mark.parametrize(("first", "expected"), [(5, 5), (1, 10), (2, 10)])
def test_a_row_is_begun_up_to_where_it_carries_loss_and_a_plain_text_up_to_half(first, expected):
    row = TokenRow(np.arange(20, dtype=np.int32), np.arange(20) >= first, "")
    assert [len(tokens) for tokens in _begun([row] * 2)] == [expected] * 2


@pytest.mark.parametrize("changes", [{"prompts": ("a",)}, {"max_tokens": 3}, {"temperature": 0.5}], ids=str)
def test_a_setting_of_samples_is_refused_where_none_are_asked_for(changes):
    with pytest.raises(BadSetting, match="--sample-every"):
        build({}, {f"sample.{key}": value for key, value in changes.items()})


def test_a_prompt_that_is_longer_than_rows_may_be_is_refused_before_anything_is_written(recipe):
    with pytest.raises(BadSetting, match=r"sample\.prompts"):
        run.start(recipe(**EVERY, sample__prompts=("Once upon a time " * 200,), data__max_seq_length=64))
    assert not Path(recipe().run.out).exists()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("changes", [{}, {"strategy__head": True}, {"backend__prefix_cache": "on"}], ids=str)
def test_the_plan_knows_what_a_sample_takes(recipe, backend, changes):
    """With a large answer it is the largest moment; the frozen layers are there for as long as it takes."""
    if backend == "numpy":
        changes = {key: "auto" if key.endswith("prefix_cache") else value for key, value in changes.items()}
    settings = {"backend__name": backend, "train__batch_size": 1, "sample__every": 1, "sample__max_tokens": 20_000}
    prepared = prepare(recipe(**settings, **changes, data__max_seq_length=64))
    assert prepared.plan.moment == "sample"
    small = prepare(recipe(backend__name=backend, train__batch_size=1, data__max_seq_length=64, **changes))
    assert small.plan.moment != "sample"
    assert prepared.plan.resident == small.plan.resident


@pytest.mark.skipif(not has_mlx(), reason="NumPy keeps the frozen layers in memory")
def test_frozen_layers_are_let_go_of_after_a_sample(recipe):
    import mlx.core as mx

    prepared = prepare(recipe(backend__name="mlx", backend__prefix_cache="on", **EVERY))
    learner = prepared.blueprint.learner(prepared.work)
    assert learner.decisions.keeps_prefix
    mx.synchronize()
    before = mx.get_active_memory()
    loaded = Loaded(learner, prepared.questions.tokenizer, prepared.questions.special)
    said = [*answer(loaded, prepared.questions.asked[0].prompt, Sampling(8, 0.0, 1.0, 0))]
    mx.synchronize()
    assert said
    layer = prepared.blueprint.anatomy.layers[0]
    one = sum(p.bytes for name, p in prepared.blueprint.anatomy.parameters.items() if name.startswith(layer))
    assert mx.get_active_memory() - before < one

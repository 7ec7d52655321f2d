"""Generating with the cache, adapters of a run, and the loss of a model that is only read."""

import numpy as np
import pytest

from mlxtune.adapters import folder as folders
from mlxtune.adapters.folder import Saved
from mlxtune.backends.base import Sampling
from mlxtune.backends.numpy.generating import next_logits
from mlxtune.backends.numpy.sampling import choose
from mlxtune.backends.numpy.speaker import NumpySpeaker
from mlxtune.errors import BadModel
from mlxtune.export import adapter as export
from mlxtune.strategies.full import Full
from mlxtune.strategies.last_n import LastN
from mlxtune.strategies.lora import Lora
from tests.support.numpy import KINDS, learner, random_batch, torch_model, write_model

GREEDY = Sampling(max_tokens=30, temperature=0.0, top_p=1.0, seed=0)
PROMPT = list(range(3, 60)) * 2


def speaker(folder, adapter=None):
    return NumpySpeaker(folder, adapter, "fp32")


@pytest.mark.parametrize("kind", ["llama, tied", "mistral, short window", "mistral, long window", "qwen2", "qwen3"])
def test_the_cache_gives_what_the_whole_text_gives(kind, tmp_path):
    made = speaker(write_model(tmp_path, **KINDS[kind]))
    said = list(made.generate(PROMPT, GREEDY, frozenset()))
    assert len(said) == GREEDY.max_tokens
    for place in range(GREEDY.max_tokens):
        assert said[place] == int(next_logits(made.model, [*PROMPT, *said[:place]]).argmax())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.few(2)
def test_logits_agree_with_transformers(kind, tmp_path):
    torch = pytest.importorskip("torch", reason="the oracle of this test is not installed")
    folder = write_model(tmp_path, **KINDS[kind])
    with torch.no_grad():
        expected = torch_model(folder)(torch.tensor([PROMPT])).logits[0, -1].numpy()
    np.testing.assert_allclose(next_logits(speaker(folder).model, PROMPT), expected, atol=2e-5 * np.abs(expected).max())


def test_generating_stops_before_a_stop_token_and_at_the_limit(tmp_path):
    made = speaker(write_model(tmp_path, **KINDS["llama"]))
    said = list(made.generate(PROMPT, GREEDY, frozenset()))
    first = next(place for place, token in enumerate(said) if token not in said[:place] and place > 2)
    assert list(made.generate(PROMPT, GREEDY, frozenset({said[first]}))) == said[:first]
    assert list(made.generate(PROMPT, GREEDY._replace(max_tokens=5), frozenset())) == said[:5]


def test_sampling_is_a_function_of_the_seed(tmp_path):
    made = speaker(write_model(tmp_path, **KINDS["llama"]))
    warm = Sampling(max_tokens=20, temperature=1.0, top_p=0.95, seed=1)
    first, again, other = (
        list(made.generate(PROMPT, sampling, frozenset())) for sampling in (warm, warm, warm._replace(seed=2))
    )
    assert first == again != other


def test_tokens_are_drawn_with_their_probability_within_top_p():
    logits = np.log(np.float32([0.1, 0.5, 0.3, 0.1]))
    generator = np.random.default_rng(0)

    def shares(temperature, top_p):
        drawn = [choose(logits, Sampling(1, temperature, top_p, 0), generator) for _ in range(4000)]
        return np.bincount(drawn, minlength=4) / len(drawn)

    np.testing.assert_allclose(shares(1.0, 1.0), [0.1, 0.5, 0.3, 0.1], atol=0.03)
    np.testing.assert_allclose(shares(1.0, 0.8), [0, 0.625, 0.375, 0], atol=0.03)
    squared = np.array([0.01, 0.25, 0.09, 0.01])
    np.testing.assert_allclose(shares(0.5, 1.0), squared / squared.sum(), atol=0.03)


STRATEGIES = [Lora(rank=4, scale=2.0), LastN(last_n=1), LastN(last_n=1, head=True), Full()]


def saved(made, run):
    export.write(run / "adapter", made.weights(), made.parts.anatomy, made.parts.selection, {})
    folders.settle(run / "adapter")


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_saved_adapter_speaks_as_the_learner_that_made_it(strategy, tmp_path):
    folder = write_model(tmp_path / "model", **KINDS["llama, tied"])
    made, batch = learner(folder, strategy), random_batch()
    for _ in range(3):
        made.step([batch], 1e-2)
    saved(made, tmp_path)
    spoken = speaker(folder, folders.find(tmp_path / "adapter")).evaluate(batch)
    assert spoken.loss_sum == pytest.approx(made.evaluate(batch).loss_sum, rel=1e-5)
    assert spoken.loss_sum != pytest.approx(speaker(folder).evaluate(batch).loss_sum, rel=1e-2)


@pytest.mark.parametrize("strategy", STRATEGIES[:2])
def test_an_adapter_of_another_model_is_refused(strategy, tmp_path):
    folder = write_model(tmp_path / "model", **KINDS["llama, tied"])
    made = learner(folder, strategy)
    saved(made, tmp_path)
    adapter = folders.find(tmp_path / "adapter")
    for key, value in (("hidden_size", 64), ("num_hidden_layers", 1)):
        other = write_model(tmp_path / key, **{**KINDS["llama, tied"], key: value})
        with pytest.raises(BadModel, match="adapter"):
            speaker(other, adapter)


def test_an_adapter_of_a_kind_that_is_not_there_is_refused(tmp_path):
    folder = write_model(tmp_path / "model", **KINDS["llama"])
    made = learner(folder, STRATEGIES[0])
    saved(made, tmp_path)
    with pytest.raises(BadModel, match="another"):
        speaker(folder, Saved(tmp_path / "adapter", "another", settings=None))

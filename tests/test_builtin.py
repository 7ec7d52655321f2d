"""The built-in model and data: what ships is small, loads everywhere, speaks, and is what the program makes."""

import json
import re
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mlxtune.data.types import Batch
from scripts import make_builtin
from scripts.make_builtin import ASSETS, N_ROWS, N_VALID_ROWS
from scripts.rhymes import rows
from scripts.stories import stories
from tests.support.batches import unpadded

MODEL, DATA = ASSETS / "model", ASSETS / "data"
FRESH = 12_345  # a seed that neither training nor validation uses
LOSS_BOUND = 0.32  # nats a token; 0.29 on the validation stories when the model was made


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(MODEL)


@pytest.fixture(scope="module")
def fresh_stories(tokenizer: Any) -> Batch:
    """Sixteen stories that the model was not trained on, as the trainer batches text."""
    tokens = [[*tokenizer(story)["input_ids"], tokenizer.eos_token_id] for story in islice(stories(FRESH), 16)]
    lengths = np.array([len(row) for row in tokens], np.int32)
    padded = np.array([row + [0] * (lengths.max() - len(row)) for row in tokens], np.int32)
    place = np.arange(lengths.max())
    supervised = (place > 0) & (place < lengths[:, None])
    return unpadded(padded, supervised, lengths)


def mean_loss(logits_BTV: NDArray[np.float32], batch: Batch) -> float:
    logits_BTV = logits_BTV.astype(np.float64)
    log_sum_BT = np.log(np.exp(logits_BTV).sum(-1))
    target_BT = np.take_along_axis(logits_BTV[:, :-1], batch.tokens_BT[:, 1:, None], -1)[..., 0]
    return float((log_sum_BT[:, :-1] - target_BT)[batch.supervised_BT[:, 1:]].mean())


def mlx_logits(batch: Batch) -> NDArray[np.float32]:
    mx = pytest.importorskip("mlx.core", reason="MLX is not installed")
    from mlx_lm import load

    model, _ = load(str(MODEL))
    model.set_dtype(mx.float32)
    return np.array(model(mx.array(batch.tokens_BT)))


@pytest.mark.slow
def test_the_built_in_model_knows_the_stories_that_it_has_not_seen(fresh_stories: Batch) -> None:
    assert mean_loss(mlx_logits(fresh_stories), fresh_stories) < LOSS_BOUND


@pytest.mark.slow
def test_transformers_and_mlx_lm_read_the_same_model(fresh_stories: Batch) -> None:
    torch = pytest.importorskip("torch")
    from transformers import LlamaForCausalLM

    model = LlamaForCausalLM.from_pretrained(MODEL, dtype=torch.float32)
    with torch.no_grad():
        logits = model(torch.from_numpy(fresh_stories.tokens_BT).long()).logits.numpy()
    np.testing.assert_allclose(mlx_logits(fresh_stories), logits, atol=2e-3)


def test_the_model_folder_is_at_most_a_megabyte() -> None:
    assert sum(file.stat().st_size for file in MODEL.iterdir()) <= 1_000_000


@pytest.mark.parametrize("text", ["Lily has a kite.\nIt flies!", "  two  spaces ", "Ünïcödé 猫 🦊", "<|notatoken|>"])
def test_the_tokenizer_gives_back_any_text(tokenizer: Any, text: str) -> None:
    assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text


def test_the_chat_template_marks_the_assistants_turns(tokenizer: Any) -> None:
    turns = [{"role": "user", "content": "Hello."}, {"role": "assistant", "content": "Hello, Mia."}]
    made = tokenizer.apply_chat_template(turns, return_dict=True, return_assistant_tokens_mask=True)
    marked = [token for token, mark in zip(made["input_ids"], made["assistant_masks"], strict=True) if mark]
    assert tokenizer.decode(marked) == "Hello, Mia.<|end|>"


def test_stories_and_rhymes_come_from_their_seed_alone() -> None:
    assert list(islice(stories(FRESH), 50)) == list(islice(stories(FRESH), 50))
    assert rows(FRESH, 50, 5) == rows(FRESH, 50, 5)
    assert next(stories(FRESH)) != next(stories(FRESH + 1))


@pytest.mark.slow
def test_no_two_of_ten_thousand_stories_are_the_same() -> None:
    made = list(islice(stories(FRESH), 10_000))
    assert len(set(made)) == len(made)


def test_no_story_has_an_empty_slot_or_a_small_letter_at_a_sentences_start() -> None:
    for story in islice(stories(FRESH), 2_000):
        assert not re.search(r"[{}]|[.!?] [a-z]|  ", story), story


def test_the_shipped_data_is_what_the_program_makes(tmp_path: Path) -> None:
    make_builtin.write_data(tmp_path)
    for name in ("train.jsonl", "valid.jsonl"):
        assert (tmp_path / name).read_bytes() == (DATA / name).read_bytes()


def test_the_shipped_configuration_is_the_programs() -> None:
    assert json.loads((MODEL / "config.json").read_text()) == make_builtin.CONFIG


def test_every_built_in_row_is_a_question_and_four_lines() -> None:
    for name, count in (("train.jsonl", N_ROWS), ("valid.jsonl", N_VALID_ROWS)):
        lines = (DATA / name).read_text().splitlines()
        assert len(lines) == count
        for line in lines:
            asked, answered = json.loads(line)["messages"]
            assert (asked["role"], answered["role"]) == ("user", "assistant")
            assert answered["content"].count("\n") == 3


def test_no_rhyme_that_is_validated_on_is_trained_on() -> None:
    first_line_ends = [
        {
            json.loads(line)["messages"][1]["content"].split("\n")[0].split(" has ")[1]
            for line in path.read_text().splitlines()
        }
        for path in (DATA / "train.jsonl", DATA / "valid.jsonl")
    ]
    assert first_line_ends[0].isdisjoint(first_line_ends[1])


def test_the_demos_prompt_is_a_validation_row() -> None:
    demo = (ASSETS.parents[1] / "scripts" / "demo").read_text()
    prompt = next(line.split('"')[1] for line in demo.splitlines() if line.startswith("prompt="))
    asked = [json.loads(line)["messages"][0]["content"] for line in (DATA / "valid.jsonl").read_text().splitlines()]
    assert prompt in asked

"""What generation is given and where it stops, with a model that says what it is told to."""

import json
from collections.abc import Iterator, Sequence, Set
from pathlib import Path
from typing import Any

import pytest

from mlxtune import inference as try_it
from mlxtune import speech
from mlxtune.backends.base import BackendSettings, Sampling
from mlxtune.data import special
from mlxtune.errors import BadData
from mlxtune.recipe.recipe import build
from mlxtune.run import session as run
from tests.support.backend import BACKEND
from tests.support.data import chat, only
from tests.support.tokenizer_kinds import tokenizer_of_kind
from tests.support.tokenizers import CHATML, tokenizer

GREEDY = Sampling(64, 0.0, 1.0, 0)
BARE = CHATML.replace("<|im_end|>", "")
TEXTUAL = CHATML.replace("<|im_end|>", "[/END]")


class Says:
    """A speaker that says a text, and keeps the prompt that it was given."""

    device = "none"

    def __init__(self, tokens: Sequence[int]) -> None:
        self.tokens, self.prompt = tokens, list[int]()

    def evaluate(self, batch: Any) -> Any:
        raise NotImplementedError

    def generate(self, prompt: Sequence[int], sampling: Sampling, stop: Set[int]) -> Iterator[int]:
        self.prompt = list(prompt)
        for token in self.tokens[: sampling.max_tokens]:
            if token in stop:
                return
            yield token


def loaded(made: Any, text: str, ids: Sequence[int] = (), end_of_turn: str | None = None) -> speech.Loaded:
    says = Says(made(text, add_special_tokens=False)["input_ids"])
    return speech.Loaded(says, made, special.read(made, ids, end_of_turn))


@pytest.mark.parametrize(
    ("made", "end", "options"),
    [
        (tokenizer(CHATML), "<|im_end|>", {}),  # the template's
        (tokenizer(CHATML), "</s>", {}),  # the tokenizer's
        (tokenizer(CHATML), "<|eot_id|>", {"ids": [tokenizer().convert_tokens_to_ids("<|eot_id|>")]}),  # the files'
        (tokenizer(TEXTUAL), "[/END]", {}),  # the template's, of several tokens
        (tokenizer(BARE), "[DONE]", {"end_of_turn": "[DONE]"}),  # the user's, of several tokens
        (tokenizer(), "[DONE]", {"end_of_turn": "[DONE]"}),
        (tokenizer(BARE), "<|end|>", {"end_of_turn": "<|end|>"}),
    ],
)
def test_generation_stops_at_every_end(made: Any, end: str, options: dict[str, Any]) -> None:
    found = "".join(speech.complete(loaded(made, f"an [answer]{end} and on", **options), "q", GREEDY))
    assert found == "an [answer]"


def test_what_may_be_the_beginning_of_an_end_is_said_once_it_is_none() -> None:
    said = list(speech.complete(loaded(tokenizer(), "a [DO b [DON", end_of_turn="[DONE]"), "q", GREEDY))
    assert "".join(said) == "a [DO b [DON"
    assert not any(piece.startswith("[") for piece in said[:2])


@pytest.mark.parametrize("after", ["", "</s>"])
@pytest.mark.parametrize("prompt", ["ab", "<s>ab", "\n<s>ab"])
def test_a_prompt_begins_once_and_does_not_end(prompt: str, after: str) -> None:
    made = tokenizer_of_kind("byte-level", None, after)
    asked = loaded(made, "c")
    assert list(speech.complete(asked, prompt, GREEDY)) == ["c"]
    assert made.decode(asked.speaker.prompt) == "<s>ab"  # type: ignore[attr-defined]


def test_a_base_model_goes_on_from_the_prompt_blank_and_all() -> None:
    made = tokenizer_of_kind("SentencePiece, Llama's")
    says = loaded(made, "")
    says.speaker.tokens = made("Once upon a time", add_special_tokens=False)["input_ids"][1:]  # type: ignore[attr-defined]
    first = made.decode(made("Once upon a time", add_special_tokens=False)["input_ids"][:1])
    assert first + "".join(speech.complete(says, first, GREEDY)) == "Once upon a time"


def test_a_prompt_of_no_token_is_refused() -> None:
    made = tokenizer()
    made.backend_tokenizer.post_processor = None
    with pytest.raises(BadData, match="expected a text to go on from"):
        list(speech.complete(loaded(made, "a"), "", GREEDY))


@pytest.mark.parametrize("end", ["[DONE]", "<|end|>"])
def test_a_chat_is_written_as_it_was_trained(end: str, tmp_path: Path) -> None:
    made = tokenizer(BARE)
    row = only(tmp_path, chat("q1", "a1", "q2", "a2"), made, end_of_turn=end)
    talk = try_it.Conversation(loaded(made, f"a1{end}", end_of_turn=end), GREEDY)
    for question in ("q1", "q2"):
        assert "".join(talk.ask(question)) == "a1"
    asked = talk.loaded.speaker.prompt  # type: ignore[attr-defined]
    assert row.tokens[: len(asked)].tolist() == asked


def test_an_adapter_keeps_what_ends_the_answers_that_it_was_trained_on(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"prompt": f"q{n}", "completion": "a b"}) + "\n" for n in range(8)))
    settings = {"data.path": str(rows), "data.end_of_turn": "##", "run.out": str(tmp_path / "run")}
    run.start(build({}, {**settings, "train.max_steps": 1, "backend.name": BACKEND, "backend.precision": "fp32"}), [])
    backend = BackendSettings(name=BACKEND, precision="fp32")
    found = try_it.load(None, tmp_path / "run/adapter", backend)
    assert found.special.written == "##"
    assert "##" in found.special.texts
    data = build({}, {"data.path": str(rows)}).data
    with_end = try_it.score(None, tmp_path / "run/adapter", data, backend).tokens
    assert with_end > try_it.score(None, None, data, backend).tokens

"""A template that writes the time writes that of the run's start, on whichever day the run goes on."""

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from mlxtune.errors import MlxtuneError
from mlxtune.recipe.recipe import build
from mlxtune.run import identity as run_identity
from mlxtune.run import session as run
from tests.support.backend import BACKEND
from tests.support.cli import model, write

TEMPLATE = "{{ strftime_now('%d %b %Y') }}{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}"


def on(day: int, monkeypatch: pytest.MonkeyPatch) -> None:
    class Clock(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> "Clock":  # noqa: ARG003
            return cls(2031, 7, day, 12, 30)

    monkeypatch.setattr(run_identity, "datetime", Clock)


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, Any]:
    folder = model(tmp_path)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": TEMPLATE}))
    row = {"messages": [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "A cat."}]}
    given = {"model.name": str(folder), "data.path": str(write(tmp_path / "rows.jsonl", [row] * 12))}
    sizes = {"train.max_steps": 2, "train.batch_size": 2, "backend.precision": "fp32", "backend.name": BACKEND}
    return {**given, **sizes, "run.out": str(tmp_path / "run")}


def fingerprint(folder: Path) -> str:
    return str(json.loads((folder / "environment.json").read_text())["fingerprints"]["data"])


@pytest.mark.slow
def test_a_run_that_goes_on_on_another_day_has_the_rows_that_it_began_with(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    on(26, monkeypatch)
    run.start(build({}, settings))
    begun = fingerprint(out)
    assert yaml.safe_load((out / "recipe.yaml").read_text())["data"]["now"] == "2031-07-26T12:30:00"
    on(27, monkeypatch)
    assert run.start(build({}, {**settings, "train.max_steps": 4})).steps == 4
    assert fingerprint(out) == begun
    run.start(build({}, {**settings, "run.out": str(tmp_path / "other")}))
    assert fingerprint(tmp_path / "other") != begun


def test_a_time_that_is_none_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(MlxtuneError, match="a time like"):
        build({}, {**settings, "data.now": "yesterday"})

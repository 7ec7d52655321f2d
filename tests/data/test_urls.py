"""A URL is never taken for a path or a name of the hub, and is shown and recorded without secrets."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mlxtune.data import urls
from mlxtune.data.settings import DataSettings
from mlxtune.errors import BadSetting, MlxtuneError
from mlxtune.recipe.recipe import Recipe, as_yaml, build
from mlxtune.run.identity import _findable
from tests.support.data import write
from tests.support.http import Site, serve

SIGNED = "https://host/a/rows.jsonl?day=3&X-Amz-Signature=5eC7e7&token=5eC7e7&sig=5eC7e7"
BARE = "https://host/a/rows.jsonl?day=3"
URLS = ("s3://bucket/x", "gs://bucket/part-*.jsonl", "hf://datasets/org/name@main/en", BARE)


def told(**data: Any) -> str:
    with pytest.raises(MlxtuneError) as caught:
        build({"data": data}, {})
    assert str(caught.value).count("expected") == 1
    return str(caught.value)


@pytest.mark.parametrize("path", ["ftp://host/x", "s3:/bucket/x", "file:///x", "s3a://bucket/x", "HTTPS:/host/x"])
def test_a_scheme_that_is_not_known_names_those_that_are(path: str) -> None:
    found = told(path=path)
    assert "data.path: expected a path, or one of s3://BUCKET/PATH, gs://BUCKET/PATH, https://HOST/FILE" in found
    assert f"found `{path}`" in found


@pytest.mark.parametrize("url", ["https://me:5eC7e7@host/x", "s3://5eC7e7@bucket/x", "http://me:5eC7/e7@host/x"])
def test_a_recipe_with_a_password_in_a_url_is_refused_and_does_not_show_it(url: str) -> None:
    found = told(path=url)
    assert "data.path: expected a URL" in found
    assert "5eC7" not in found


@pytest.mark.parametrize("url", URLS)
def test_a_recipe_keeps_a_url_as_it_is(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = build({"data": {"path": url}}, {})
    assert _findable(recipe).data.path == url
    assert f"path: {url}" in as_yaml(recipe)
    write(tmp_path / "rows.jsonl", [])
    local = _findable(replace(recipe, data=DataSettings(path="rows.jsonl")))
    assert local.data.path == str(tmp_path / "rows.jsonl")


def test_what_is_written_down_of_a_signed_url_has_no_signature() -> None:
    recipe = Recipe(data=DataSettings(path=SIGNED))
    assert recipe.data.path == SIGNED
    assert f"path: {BARE}\n" in as_yaml(recipe)
    assert "5eC7e7" not in as_yaml(recipe)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://h/x?a=1&AWSAccessKeyId=K&Signature=S&Expires=9", "https://h/x?a=1&Expires=9"),
        ("https://h/x?sv=2024&se=1&sig=S", "https://h/x?sv=2024&se=1"),
        ("https://h/x?X-Goog-Credential=S&x-goog-signature=S", "https://h/x"),
        ("https://h/x?access_token=S&api_key=S&apiKey=S&password=S&Key-Pair-Id=S", "https://h/x"),
        (f"https://h/x?other={'S' * 40}&b=2", "https://h/x?b=2"),
        ("https://h/x#token=S", "https://h/x"),
        ("https://me:S@h/x@2?y=1", "https://h/x@2?y=1"),
        ("s3://S:S@bucket/part-?.jsonl", "s3://bucket/part-?.jsonl"),
        ("hf://datasets/a/b@main/x", "hf://datasets/a/b@main/x"),
        ("rows?token=1", "rows?token=1"),
    ],
)
def test_a_url_is_shown_without_what_may_be_a_key(url: str, shown: str) -> None:
    assert urls.shown(url) == shown
    assert urls.scrubbed(f"no answer of {url}.") in (f"no answer of {shown}.", f"no answer of {shown}")


def test_a_path_with_a_colon_is_a_path() -> None:
    for path in ("C:/rows.jsonl", "./s3:/x", "a:b", "data/x:y", "owner/name"):
        assert not urls.is_url(path)
        urls.check(path)
    with pytest.raises(BadSetting):
        urls.check("data:/x")


@pytest.mark.slow
def test_a_run_trains_on_a_signed_url_and_its_folder_has_no_signature(mlxtune: Any, tmp_path: Path) -> None:
    rows = write(
        tmp_path / "rows.jsonl", [{"text": f"Once upon a time there was a dog, number {n}."} for n in range(8)]
    )
    with serve(Site({"rows.jsonl": rows.read_bytes()})) as site:
        url = f"{site.url}/rows.jsonl?day=3&X-Amz-Signature=5eC7e7"
        (tmp_path / "r.yaml").write_text(f"data: {{path: '{url}'}}\ntrain: {{max_steps: 1}}\nrun: {{out: out}}\n")
        dry = mlxtune("train", "--recipe", "r.yaml", "--dry-run")
        assert (dry.returncode, "5eC7e7" in dry.stdout + dry.stderr) == (0, False)
        ended = mlxtune("run", "r.yaml")
        assert ended.returncode == 0, ended.stderr
        assert "5eC7e7" not in ended.stdout + ended.stderr
        assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file() and b"5eC7e7" in path.read_bytes()]
        scored = mlxtune("eval", "--data", url, "--json")
        assert json.loads(scored.stdout)["rows"] == 8
        assert "5eC7e7" not in scored.stdout
        again = mlxtune("train", "--resume", "out", "--data", url, "--max-steps", 2)
        assert again.returncode == 0, again.stderr

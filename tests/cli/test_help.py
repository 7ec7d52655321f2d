"""What a user sees before anything runs."""

import subprocess
import sys

import pytest
from typer.testing import CliRunner

from mlxtune.cli.app import app

VERBS = ("train", "run", "eval", "generate", "chat", "data", "models", "bench", "cache", "doctor")


@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_has_help_and_those_with_settings_have_an_example(verb):
    found = CliRunner().invoke(app, [verb, "--help"], env={"COLUMNS": "200"})
    assert found.exit_code == 0
    assert f"mlxtune {verb}" in found.output


def test_the_list_of_verbs_needs_no_rich_and_no_pydantic():
    code = (
        "import sys\nfrom mlxtune.cli.app import app\n"
        "try:\n    app(['--help'])\nexcept SystemExit:\n    pass\n"
        "print(sorted({'rich', 'pydantic', 'numpy', 'mlx', 'transformers'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.splitlines()[-1] == "[]"


def test_no_default_is_eaten_by_markup():
    found = CliRunner().invoke(app, ["train", "--help"], env={"COLUMNS": "200"})
    for said in ("Default: 2048.", "Default: 1e-5.", "Default: bf16.", "Default: 4; lora: all."):
        assert said in found.output

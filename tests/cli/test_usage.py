"""A command line that cannot be read is told as any other fault is, in the words in which it was given."""

import re
import tomllib

import pytest
from typer.main import get_command

from mlxtune.adapters.adapter import NAMES
from mlxtune.cli.app import app
from mlxtune.cli.flags import FLAGS
from mlxtune.recipe.from_mlx_lm.flags import FLAGS as OF_MLX_LM
from tests.support.checkout import ROOT
from tests.support.cli import TEXT_ROWS, write

VERBS = sorted(get_command(app).commands)


@pytest.fixture
def refused(mlxtune):
    """What a refused command line is told; that it is told in our style is looked at here."""

    def call(*arguments):
        found = mlxtune(*arguments)
        assert found.returncode == 2, found.stdout
        assert found.stdout == ""
        assert found.stderr.startswith("error: ")
        assert not re.search(r"Usage:|Error:|Try '|Traceback|Input should|No such", found.stderr), found.stderr
        return found.stderr

    return call


def test_the_version_is_that_of_the_project(mlxtune):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert mlxtune("--version").stdout == f"mlxtune {project['version']}\n"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("trian",), "found 'trian'.\n       The nearest is train."),
        (("xyzzy",), "mlxtune --help"),
        (("--debg", "train"), "--debg: expected an option of mlxtune, found none of that name."),
        (("train", "--batch-sise", 3), "The nearest is --batch-size."),
        (("train", "--batch_size", 3), "The nearest is --batch-size."),
        (("train", "--batch-size"), "--batch-size: expected a value, found none."),
        (("train", "--out", "--json"), "--out: expected a value, found the next option, --json."),
        (("train", "--skip-bad-rows=yes"), "--skip-bad-rows: expected no value"),
        (("train", "rows.jsonl"), "mlxtune train: expected options alone, found 'rows.jsonl'."),
        (("train", "--batch-size", "four"), "--batch-size: expected a whole number, found 'four'."),
        (("train", "--learning-rate", "fast"), "--learning-rate: expected a number, found 'fast'."),
        (("train", "--loss-on", "none"), "--loss-on: expected auto, all, assistant or last, found 'none'."),
        (("train", "--strategy", "all"), f"--strategy: expected last-n or {' or '.join(NAMES)} or full, found 'all'."),
        (("train", "--memory-limit", "plenty"), "--memory-limit: expected bytes, like 24GB"),
        (("train", "--memory-limit", "_"), "--memory-limit: expected bytes, like 24GB"),
        (("train", "--memory-limit", "9" * 400), "--memory-limit: expected bytes, like 24GB"),
        (("train", "--fit", "plenty"), "--fit: expected bytes, like 24GB, found 'plenty'."),
        (("memory", "--for", "pc"), "--for: expected here or mac, found 'pc'."),
        (("generate",), "--prompt: expected a value, found none."),
        (("generate", "--prompt", "x", "--temperature", "hot"), "--temperature: expected a number, found 'hot'."),
        (("generate", "--prompt", "x", "--temperature", "nan"), "--temperature: expected 100 or less, found 'nan'."),
        (("generate", "--prompt", "x", "--top-p", 2), "--top-p: expected 1 or less, found '2'."),
        (("data", "--rows", -1), "--rows: expected 0 or more, found '-1'."),
        (("eval", "--precision", "int8"), "--precision: expected bf16, fp16 or fp32, found 'int8'."),
        (("bench", "--precision", "fp8"), "--precision: expected one of fp32, bf16, found 'fp8'."),
        (("run",), "expected a recipe file"),
    ],
    ids=lambda each: str(each)[:60],
)
@pytest.mark.few(2)
def test_a_command_line_that_cannot_be_read_says_what_was_expected_and_found(refused, arguments, told):
    assert told in refused(*arguments)


def test_all_that_is_wrong_with_the_options_is_told_at_once(refused):
    told = refused("train", "--batch-size", "x", "--strategy", "lora", "--rank", 0, "--learning-rate", "nan")
    assert [line.split(":")[1].strip() for line in told.splitlines()] == ["--rank", "--learning-rate", "--batch-size"]


def test_every_flag_of_mlx_lm_is_known():
    """Of its trainer, as its parser has them; those that are called the same are ours."""
    lora = pytest.importorskip("mlx_lm.lora")
    theirs = {name for action in lora.build_parser()._actions for name in action.option_strings}
    (train,) = (each for name, each in get_command(app).commands.items() if name == "train")
    ours = {name for each in train.params for name in each.opts} | {"-h", "--help"}
    assert theirs - ours - OF_MLX_LM.keys() == set()


@pytest.mark.parametrize("verb", ["train", "generate", "eval", "memory", "chat"])
def test_flags_of_mlx_lm_are_answered_with_options_that_the_verb_has(refused, verb):
    """In one message, each with a value that must not be taken for an argument."""
    options = {name for each in get_command(app).commands[verb].params for name in each.opts}
    theirs = [name for name in OF_MLX_LM if name not in options]
    told = refused(verb, *(word for name in theirs for word in (name, "7")))
    assert told.count("error: ") == 1
    for name in theirs:
        (line,) = (line for line in told.splitlines() if re.match(rf"\s+{name}( is |: )", line))
        answer = re.match(r"\s+\S+ is (--[\w-]+)", line)
        assert answer is None or answer[1] in options, line


def test_the_table_of_the_readme_has_the_answers(refused):
    told = refused("train", "--iters", 10, "--num-layers", 4, "--fine-tune-type", "lora", "--adapter-path", "x")
    for answer in ("--max-steps N", "--last-n N", f"--strategy last-n|{'|'.join(NAMES)}|full", "--out RUN"):
        assert f"is {answer} here." in told


@pytest.fixture
def few(tmp_path):
    return write(tmp_path / "rows.jsonl", TEXT_ROWS[:3])


def test_a_setting_is_named_as_it_was_given(refused, tmp_path, few):
    """As a flag, as a key of the recipe's file, or as what --set changed; whoever finds the fault."""
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"data: {{path: {few}}}\ntrain: {{batch_size: 9}}\n")
    assert "error: --batch-size: expected at most" in refused("train", "--data", few, "--batch-size", 9)
    assert f"error: {recipe}: train.batch_size: expected" in refused("train", "--recipe", recipe)
    assert "error: --batch-size: expected at most" in refused("train", "--recipe", recipe, "--batch-size", 8)
    of_run = refused("run", recipe)
    assert f"error: {recipe}: train.batch_size: expected" in of_run
    assert "Give train.batch_size" in of_run  # `run` has no such flag
    assert "error: --set train.batch_size: expected" in refused("run", recipe, "--set", "train.batch_size=8")
    assert "error: --set train.batch_size: expected a whole" in refused("run", recipe, "--set", "train.batch_size=x")


KINDS_WITH_MORE = {
    "strategy": ("--strategy", "lora"),
    "schedule": ("--schedule", "cosine"),
    "objective": ("--objective", "dpo"),
    "optimizer": ("--optimizer", "sgd"),
}


@pytest.mark.parametrize("flag", [flag for flag in FLAGS if flag.kind in (int, float)], ids=lambda flag: flag.flag)
def test_a_number_that_is_none_is_told_under_its_flag(refused, flag):
    kind = KINDS_WITH_MORE.get(flag.key.partition(".")[0], ())
    assert f"error: {flag.flag}: expected a" in refused("train", *kind, flag.flag, "many")


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_names_the_nearest_option(refused, verb):
    assert f"expected an option of mlxtune {verb}" in refused(verb, "--no-such-option")

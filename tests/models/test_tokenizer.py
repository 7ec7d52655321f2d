import json
import subprocess
import sys
from dataclasses import replace

import pytest

from mlxtune.errors import BadModel
from mlxtune.models import stopping
from mlxtune.models.config import read
from mlxtune.models.tokenizer import check_vocabulary, differences, load
from tests.support.assets import assets_folder
from tests.support.model import CONFIG, WORDS, write_json, write_model


@pytest.fixture
def folder(tmp_path):
    return write_model(tmp_path)


def test_a_tokenizer_is_loaded_from_a_folder_alone(folder):
    tokenizer = load(folder)
    assert tokenizer("a c b")["input_ids"] == [3, 5, 4]
    assert (tokenizer.bos_token, tokenizer.eos_token_id) == ("<s>", 2)


def test_a_template_beside_the_tokenizer_is_its_chat_template(folder):
    (folder / "chat_template.jinja").write_text("{% for m in messages %}{{ m.content }}{% endfor %}")
    rendered = load(folder).apply_chat_template([{"role": "user", "content": "a b"}], tokenize=False)
    assert rendered == "a b"


@pytest.mark.parametrize("name", ["llama3.1", "minimind"])
@pytest.mark.slow
def test_real_tokenizers_load_with_their_templates(name):
    tokenizer = load(assets_folder() / "tokenizers" / name)
    assert len(tokenizer) == {"llama3.1": 128_256, "minimind": 6_400}[name]
    assert "messages" in tokenizer.chat_template


@pytest.mark.slow
def test_loading_and_long_rows_print_nothing(folder):
    code = f"""from pathlib import Path
from mlxtune.models.tokenizer import load
assert len(load(Path({str(folder)!r}))("a " * 1000)["input_ids"]) == 1000"""
    ended = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


def test_no_tokenizer_is_told_with_what_is_there(folder):
    (folder / "tokenizer.json").unlink()
    with pytest.raises(
        BadModel, match=r"expected tokenizer\.json, found a folder with config\.json, model\.safetensors"
    ):
        load(folder)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_the_broken_file_is_named_with_its_line(folder, name):
    (folder / name).write_text('{\n"a": ')
    with pytest.raises(BadModel, match=rf"{name}:2: expected JSON"):
        load(folder)


def test_json_that_is_no_tokenizer_is_refused(folder):
    write_json(folder / "tokenizer.json", {"model": {"type": "Nonsense"}})
    with pytest.raises(BadModel, match="expected a tokenizer that transformers can read"):
        load(folder)


def test_a_slow_tokenizer_alone_is_refused_with_a_remedy(folder):
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.model").write_bytes(b"not really a sentencepiece model")
    with pytest.raises(BadModel, match=r"expected tokenizer\.json, a fast tokenizer(.|\n)*save_pretrained"):
        load(folder)


def test_code_that_comes_with_a_tokenizer_is_never_run(folder):
    (folder / "own.py").write_text("raise SystemExit('ran')")
    write_json(folder / "tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["own.Own", None]}})
    with pytest.raises(BadModel):
        load(folder)


def test_a_tokenizer_of_another_model_is_refused(folder):
    config = replace(read(folder), vocab_size=len(WORDS) - 2)
    with pytest.raises(BadModel, match=r"expected tokens below 6, .* found 2 tokens beyond it, up to 7"):
        check_vocabulary(load(folder), config)


def test_an_added_token_without_a_row_is_a_note_not_a_fault(folder):
    tokenizer = load(folder)
    tokenizer.add_tokens(["<image>"], special_tokens=True)
    config = replace(read(folder), vocab_size=len(WORDS))
    assert check_vocabulary(tokenizer, replace(config, vocab_size=100)) == ()
    (note,) = check_vocabulary(tokenizer, config)
    assert "<image>" in note


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("bos_token_id", "x"),
        ("dtype", "nope"),
        ("use_cache", "b"),
        ("layer_types", ["a", "a"]),
        ("hidden_act", 5),
        ("rope_scaling", {"type": 5}),
        ("eos_token_id", {}),
        ("attention_dropout", "a"),
    ],
)
def test_a_fault_of_the_config_is_not_the_tokenizers(key, value, folder):
    write_json(folder / "config.json", {**CONFIG, key: value})
    with pytest.raises(BadModel, match=rf"config\.json: .*{key if key != 'dtype' else value}") as caught:
        load(folder)
    assert "tokenizer" not in str(caught.value)


def test_a_template_that_is_no_text_is_refused(folder):
    names = {"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": 5}
    write_json(folder / "tokenizer_config.json", names)
    with pytest.raises(BadModel, match="chat_template: expected a template"):
        load(folder)


def test_what_rust_prints_of_a_file_stays_off_the_screen(folder, capfd):
    token = {"content": "</s>", "\x1b[2J": 1, "__type": "AddedToken"}
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": token})
    load(folder)
    assert capfd.readouterr() == ("", "")


def test_a_tokenizer_that_fails_at_an_unknown_letter_is_refused_when_it_is_loaded(folder):
    document = json.loads((folder / "tokenizer.json").read_text())
    document["model"]["unk_token"] = "no such token"
    write_json(folder / "tokenizer.json", document)
    with pytest.raises(BadModel, match="UNK"):
        load(folder)


def folder_of(tmp_path, model_type, *, tokenizer="models/stories260K", **named):
    """A folder with a real tokenizer.json and another family's model type."""
    held = json.loads((assets_folder() / tokenizer / "tokenizer_config.json").read_text())
    write_model(tmp_path)
    (tmp_path / "tokenizer.json").write_bytes((assets_folder() / tokenizer / "tokenizer.json").read_bytes())
    write_json(tmp_path / "tokenizer_config.json", {**held, **named})
    write_json(tmp_path / "config.json", {**CONFIG, "model_type": model_type, "vocab_size": 512})
    return tmp_path


TEXT = "Once upon a  time, Grüße 東京\n\n there"


@pytest.mark.parametrize("model_type", ["qwen2", "llama", "gemma2", "mistral", "phi3", "qwen3", "bert"])
@pytest.mark.parametrize("named", ["PreTrainedTokenizerFast", "LlamaTokenizerFast", "Qwen2Tokenizer"])
def test_tokens_are_those_of_tokenizer_json_whatever_the_models_type(tmp_path, model_type, named):
    from tokenizers import Tokenizer

    folder = folder_of(tmp_path, model_type, tokenizer_class=named)
    made, file = load(folder), Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert made(TEXT)["input_ids"] == file.encode(TEXT).ids
    assert made.decode(made(TEXT)["input_ids"], skip_special_tokens=True) == TEXT
    assert (made.bos_token, made.eos_token) == ("<s>", "</s>")


def test_where_transformers_encodes_otherwise_a_note_says_so(tmp_path):
    folder = folder_of(tmp_path, "qwen2")
    (note,) = differences(folder, load(folder))
    assert "The tokens are those of tokenizer.json" in note
    assert "Qwen2Tokenizer" in note
    folder = folder_of(tmp_path, "llama", tokenizer_class="PreTrainedTokenizerFast")
    assert differences(folder, load(folder)) == ()


@pytest.mark.parametrize(
    "fault", ["an id that is not there", "a template without its token", "a charsmap that is none"]
)
def test_a_tokenizer_that_panics_is_one_message(tmp_path, fault, capfd):
    folder = folder_of(tmp_path, "llama")
    held = json.loads((folder / "tokenizer.json").read_text())
    if fault == "an id that is not there":
        held["post_processor"]["single"][0]["SpecialToken"]["id"] = "nowhere"
    elif fault == "a template without its token":
        held["post_processor"]["special_tokens"] = {}
    else:
        held["normalizer"] = {"type": "Precompiled", "precompiled_charsmap": "AAAA"}
    write_json(folder / "tokenizer.json", held)
    with pytest.raises(BadModel, match=r"tokenizer\.json: expected a tokenizer that transformers can read") as caught:
        load(folder)
    assert len(str(caught.value)) < 2000
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("name", "held"),
    [
        ("config.json", {"eos_token_id": 2}),
        ("config.json", {"text_config": {"eos_token_id": [2, 1]}}),
        ("generation_config.json", {"eos_token_id": [2, 1]}),
    ],
)
def test_the_end_of_text_is_the_models_where_the_tokenizer_names_none(tmp_path, name, held):
    folder = folder_of(tmp_path, "llama", eos_token=None)
    path = folder / name
    write_json(path, {**(json.loads(path.read_text()) if path.exists() else {}), **held})
    made = load(folder)
    assert made.eos_token == "</s>"
    assert stopping.ids(folder, made) >= {2}


def test_generation_stops_at_all_that_the_files_name(tmp_path):
    folder = folder_of(tmp_path, "llama")
    write_json(folder / "config.json", {**CONFIG, "eos_token_id": 5, "text_config": {"eos_token_id": [6, True, -1]}})
    write_json(folder / "generation_config.json", {"eos_token_id": [7, "8", None, 2]})
    assert stopping.ids(folder, load(folder)) == {2, 5, 6, 7}


def test_a_letter_is_no_end_of_text_whatever_config_json_says(tmp_path):
    folder = folder_of(tmp_path, "llama", eos_token=None)
    write_json(folder / "config.json", {**CONFIG, "eos_token_id": 300})
    assert load(folder).eos_token is None

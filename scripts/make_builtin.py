"""Makes the built-in model and data: `python -m scripts.make_builtin` writes mlxtune/assets anew.

1. A grammar (`stories.py`) writes 24,000 little stories.
2. A byte-level BPE tokenizer is trained on stories and rhymes.
3. A small Llama gets random weights from the seed.
4. `mlxtune train --strategy full` trains it on the stories, through the command line like any other run.
5. The weights are rounded to float16, and `rhymes.py` writes the data that the demo teaches the model.

Everything is drawn from SEED; the same machine and versions give the same bytes.
"""

import json
import math
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from scripts.rhymes import rows
from scripts.stories import stories

SEED = 7
ROOT = Path(__file__).parents[1]
ASSETS = ROOT / "mlxtune" / "assets"
WORK = ROOT / "runs" / "builtin"  # the random model, the stories and the run; not kept

N_STORIES, N_VALID_STORIES = 24_000, 100
N_ROWS, N_VALID_ROWS = 400, 40
VOCABULARY = 1024
SPECIAL = ("<|begin|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>")

CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{{ '<|' + message.role + '|>' }}"
    "{% if message.role == 'assistant' %}"
    "{% generation %}{{ message.content + '<|end|>' }}{% endgeneration %}"
    "{% else %}{{ message.content + '<|end|>' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": VOCABULARY,
    "hidden_size": 96,
    "intermediate_size": 112,
    "num_hidden_layers": 5,
    "num_attention_heads": 3,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "max_position_embeddings": 512,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "attention_bias": False,
    "mlp_bias": False,
    "tie_word_embeddings": False,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "dtype": "float16",
}

TRAINING = (
    "--strategy full --loss-on all --precision fp32 --max-seq-length 512 --max-steps 3000 --batch-size 8 "
    "--schedule cosine --learning-rate 5e-3 --warmup-steps 100 --min-learning-rate 1e-4 --weight-decay 0.05 "
    f"--clip-norm 1.0 --eval-every 250 --save-every 1000 --seed {SEED}"
)


def main() -> None:
    """Make everything; minutes, most of them training."""
    shutil.rmtree(WORK, ignore_errors=True)
    write_random_model(WORK / "random", np.random.default_rng(SEED))
    write_stories(WORK / "stories")
    command = f"train --model {WORK / 'random'} --data {WORK / 'stories'} --out {WORK / 'run'} {TRAINING}"
    subprocess.run([sys.executable, "-m", "mlxtune", *command.split()], check=True)
    write_model(WORK / "random", WORK / "run" / "adapter" / "adapters.safetensors", ASSETS / "model")
    write_data(ASSETS / "data")


def write_random_model(folder: Path, generator: np.random.Generator) -> None:
    """A whole model folder: config, tokenizer and weights that have learned nothing."""
    folder.mkdir(parents=True)
    write_json(folder / "config.json", CONFIG)
    write_json(folder / "generation_config.json", {"bos_token_id": 0, "eos_token_id": 1, "max_new_tokens": 256})
    write_tokenizer(folder)
    save_file(random_weights(CONFIG, generator), folder / "model.safetensors", metadata={"format": "pt"})


def write_tokenizer(folder: Path) -> None:
    """Byte-level BPE of stories and rhymes: any text goes in and comes out again."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=list(SPECIAL), initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(tokenizer_text(), trainer)
    begin = SPECIAL[0]
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{begin} $A", special_tokens=[(begin, 0)])
    (folder / "tokenizer.json").write_text(tokenizer.to_str())
    names = {"bos_token": SPECIAL[0], "eos_token": SPECIAL[1], "pad_token": SPECIAL[1], "chat_template": CHAT_TEMPLATE}
    settings = {"clean_up_tokenization_spaces": False, "model_max_length": CONFIG["max_position_embeddings"]}
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", **names, **settings})


def tokenizer_text() -> Iterator[str]:
    """Stories, and a tenth as many rhymes, so that neither is cut into crumbs."""
    yield from islice(stories(SEED), 4000)
    for row in rows(SEED, train=400, valid=0)[0]:
        yield from (turn["content"] for turn in row["messages"])


def random_weights(config: Mapping[str, Any], generator: np.random.Generator) -> dict[str, NDArray[np.float32]]:
    """A Llama's start: normal with deviation 0.02; what writes to the residual stream by 1/sqrt(2 layers) less.

    The scaling is GPT-2's (Radford et al. 2019, section 2.3).
    """
    residual = 0.02 / math.sqrt(2 * config["num_hidden_layers"])
    weights = {}
    for name, shape in shapes(config):
        deviation = residual if name.endswith(("o_proj.weight", "down_proj.weight")) else 0.02
        weights[name] = generator.normal(0, deviation, shape) if len(shape) == 2 else np.ones(shape)
    return {name: weight.astype(np.float32) for name, weight in weights.items()}


def shapes(config: Mapping[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """The tensors of a Llama by their names in transformers; linear weights are (out, in)."""
    hidden, inner, vocabulary = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    queries, keys = (config[f"num_{which}_heads"] * config["head_dim"] for which in ("attention", "key_value"))
    yield "model.embed_tokens.weight", (vocabulary, hidden)
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        yield f"{prefix}input_layernorm.weight", (hidden,)
        yield f"{prefix}self_attn.q_proj.weight", (queries, hidden)
        yield f"{prefix}self_attn.k_proj.weight", (keys, hidden)
        yield f"{prefix}self_attn.v_proj.weight", (keys, hidden)
        yield f"{prefix}self_attn.o_proj.weight", (hidden, queries)
        yield f"{prefix}post_attention_layernorm.weight", (hidden,)
        yield f"{prefix}mlp.gate_proj.weight", (inner, hidden)
        yield f"{prefix}mlp.up_proj.weight", (inner, hidden)
        yield f"{prefix}mlp.down_proj.weight", (hidden, inner)
    yield "model.norm.weight", (hidden,)
    yield "lm_head.weight", (vocabulary, hidden)


def write_stories(folder: Path) -> None:
    """The training text; validation stories come from another seed."""
    folder.mkdir(parents=True)
    write_rows(folder / "train.jsonl", ({"text": story} for story in islice(stories(SEED), N_STORIES)))
    write_rows(folder / "valid.jsonl", ({"text": story} for story in islice(stories(SEED + 1), N_VALID_STORIES)))


def write_model(random: Path, trained: Path, folder: Path) -> None:
    """The model that ships: the random model's folder with the trained weights in float16."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(random, folder)
    weights = {name: weight.astype(np.float16) for name, weight in load_file(trained).items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def write_data(folder: Path) -> None:
    """The rows that the demo trains on."""
    folder.mkdir(parents=True, exist_ok=True)
    train, valid = rows(SEED, N_ROWS, N_VALID_ROWS)
    write_rows(folder / "train.jsonl", train)
    write_rows(folder / "valid.jsonl", valid)


def write_rows(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")


if __name__ == "__main__":
    main()

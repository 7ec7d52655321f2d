"""Recipes, --set, the YAML of mlx_lm.lora, and paths."""

import os
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import yaml
from fuzzing import mutate

from mlxtune.errors import BadModel
from mlxtune.models import outline
from mlxtune.recipe.from_mlx_lm import translate
from mlxtune.recipe.recipe import as_yaml, build, parse_changes, read
from mlxtune.storage.documents import user_path
from mlxtune.storage.strict_yaml import load_yaml

ROOT = Path(__file__).parents[2]


@cache
def _recipes() -> list[bytes]:
    full = as_yaml(build({}, {"data.path": "rows.jsonl"})).encode()
    lora = as_yaml(build({"strategy": {"name": "lora", "target": ["q_proj"]}}, {})).encode()
    return [full, lora, *(path.read_bytes() for path in sorted((ROOT / "recipes").glob("*.yaml")))]


@cache
def _parsed(text: bytes) -> Any:
    return yaml.safe_load(text)


def write_recipe(random: Random, folder: Path) -> None:
    text = random.choice(_recipes())
    if random.random() < 0.4:
        text = mutate.as_json(mutate.document(random, _parsed(text)))
    (folder / "recipe.yaml").write_bytes(mutate.data(random, text) if random.random() < 0.7 else text)


def read_recipe(folder: Path) -> None:
    path = folder / "recipe.yaml"
    as_yaml(build(read(path), {}, str(path)))


def write_change(random: Random, folder: Path) -> None:
    key = random.choice(
        ("train.seed", "strategy.last_n", "optimizer.beta1", "schedule.name", "a.b", "data.path", "x", ".", "a.")
    )
    value = random.choice(
        (*mutate.PIECES, *(str(each).encode(errors="surrogatepass")[:3000] for each in mutate.VALUES[:40]))
    )
    (folder / "change").write_bytes(mutate.data(random, key.encode() + b"=" + value))


def read_change(folder: Path) -> None:
    text = (folder / "change").read_bytes().decode(errors="surrogateescape")
    build({}, parse_changes([text]))


MLX_LM = b"""model: "Qwen/Qwen3-0.6b"
train: true
fine_tune_type: lora
optimizer: adamw
optimizer_config:
  adamw: {betas: [0.9, 0.98], eps: 1.0e-6, weight_decay: 0.05, bias_correction: true}
data: "rows"
seed: 0
num_layers: 16
batch_size: 4
iters: 1000
val_batches: 25
learning_rate: 1.0e-5
grad_accumulation_steps: 2
steps_per_eval: 200
adapter_path: "adapters"
save_every: 100
max_seq_length: 2048
mask_prompt: true
lora_parameters: {keys: ["self_attn.q_proj"], rank: 8, scale: 20.0, dropout: 0.0}
lr_schedule: {name: cosine_decay, warmup: 100, warmup_init: 1.0e-7, arguments: [1.0e-5, 400, 1.0e-7]}
"""


def write_mlx_lm(random: Random, folder: Path) -> None:
    text = MLX_LM
    if random.random() < 0.5:
        text = mutate.as_json(mutate.document(random, _parsed(text)))
    (folder / "lora.yaml").write_bytes(mutate.data(random, text) if random.random() < 0.6 else text)


def read_mlx_lm(folder: Path) -> None:
    recipe, _ = translate(load_yaml(folder / "lora.yaml"))
    build(recipe, {})


def write_path(random: Random, folder: Path) -> None:
    parts = (
        "~",
        "~nouser",
        "..",
        "/",
        "a",
        "x" * 300,
        "\0",
        "\udcff",
        "\ud800",
        "\x1b[2J",
        "loop",
        "afile",
        "/dev/zero",
        " ",
        "é",
    )
    (folder / "path").write_text("/".join(random.choices(parts, k=random.randint(1, 4))), errors="surrogatepass")


def read_path(folder: Path) -> None:
    (folder / "loop").symlink_to("loop")
    (folder / "afile").touch()
    os.chdir(folder)
    name = (folder / "path").read_text(errors="surrogatepass")
    user_path(name, BadModel)
    outline.outline(name if "/" in name.strip("/") or name.startswith((".", "~", "/")) else f"./{name}")

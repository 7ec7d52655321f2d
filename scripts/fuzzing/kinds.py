"""The kinds of input: what is written into an empty folder, and what of the program reads it, as its verbs do.

A kind's `read` raises MlxtuneError, or what it reads is taken. Every reader is called as the command line calls it, in
this process, without the weights of a model.
"""

import json
import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import numpy as np
import yaml
from fuzzing import mutate
from safetensors.numpy import save_file

from mlxtune import checkpoint, run_folder, try_it
from mlxtune.backends import adapter_fit
from mlxtune.backends.base import Adapter, BackendSettings, Sampling
from mlxtune.backends.numpy import adapter as numpy_adapter
from mlxtune.backends.numpy import config as numpy_config
from mlxtune.data import load, summary
from mlxtune.data.settings import DataSettings
from mlxtune.documents import user_path
from mlxtune.errors import BadModel, MlxtuneError
from mlxtune.export import adapter
from mlxtune.from_mlx_lm import translate
from mlxtune.models import config as model_config
from mlxtune.models import outline, tokenizer, weights
from mlxtune.models.fingerprint import fingerprint
from mlxtune.models.hub import BUILT_IN
from mlxtune.planning import Planner
from mlxtune.recipe import as_yaml, build, parse_changes, read
from mlxtune.report.log import last_end, replay, rewind
from mlxtune.strict_yaml import load_yaml

ROOT = Path(__file__).parents[2]


class Kind(NamedTuple):
    """share: of a thousand inputs, how many are of this kind; what takes longer has a smaller share."""

    write: Callable[[Random, Path], None]
    read: Callable[[Path], object]
    share: int


# rows

ROWS: tuple[Any, ...] = (
    {"text": "Once upon a time there was a mouse."},
    {"prompt": "Tell me a rhyme.", "completion": "The mouse has a house."},
    {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello.", "weight": 1}]},
    {
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
            {"role": "assistant", "content": "No"},
        ]
    },
    {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello."}], "system": "Be kind."},
    {"instruction": "Add.", "input": "1 2", "output": "3", "history": [["a", "b"]]},
    {"prompt": "a", "chosen": "b", "rejected": "c"},
    {
        "messages": [
            {"role": "user", "content": "Sun?"},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"function": {"name": "f", "arguments": '{"a": 1}'}}],
            },
        ],
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
    },
)


def _row_bytes(random: Random) -> tuple[str, bytes]:
    rows = [mutate.document(random, row) if random.random() < 0.5 else row for row in random.choices(ROWS, k=3)]
    layout = random.randrange(5)
    if layout == 0:
        return random.choice((".json", ".jsonl")), json.dumps(rows, indent=random.choice((None, 1))).encode()
    if layout == 1:
        head = random.choice((b"text", b"prompt,completion", b"prompt,text,text", b'"messages"', b"prompt\tcompletion"))
        return random.choice((".csv", ".tsv")), head + b"\n" + b"\n".join(b'a,"b ""c"""' for _ in range(3)) + b"\n"
    if layout == 2:
        return ".txt", b"Once upon a time.\nThere was a mouse.\n"
    return ".jsonl", b"\n".join(map(mutate.as_json, rows)) + b"\n"


def _write_rows(random: Random, folder: Path) -> None:
    suffix, text = _row_bytes(random)
    text = mutate.data(random, text) if random.random() < 0.7 else text
    if random.random() < 0.1:
        text = text.decode("utf-8", "replace").encode(
            random.choice(("utf-16", "utf-32", "utf-8-sig", "latin-1", "utf-7")), "replace"
        )
    suffix = suffix if random.random() < 0.9 else random.choice((".csv", ".json", ".jsonl", ".txt", ".tsv", ".parquet"))
    others = ("valid", "test", "rows", "val", "a\x1b[2J", "train-00000-of-00002")
    names = ["train"] * (random.random() < 0.9) + random.sample(others, random.choice((0, 0, 0, 1, 2)))
    for name in names:
        (folder / f"{name}{suffix}").write_bytes(text)


@cache
def _built_in_tokenizer() -> Any:
    return tokenizer.load(BUILT_IN)


def _read_rows(folder: Path, tokens: Any = None) -> None:
    settings, tokens = DataSettings(path=str(folder), max_seq_length=64), tokens or _built_in_tokenizer()
    dataset = load.load(settings, tokens, seed=0)
    json.dumps(summary.as_json(summary.summary(dataset, tokens, rows=2, batch_size=2, seed=0)), ensure_ascii=False)


@cache
def _tables() -> list[bytes]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    def table(rows: list[Any]) -> bytes:
        sink = pa.BufferOutputStream()
        pq.write_table(pa.Table.from_pylist(rows), sink)
        return bytes(sink.getvalue())

    plain = [row for place, row in enumerate(ROWS) if place != 3]  # Arrow has no lists of texts and objects
    return [table([row] * 3) for row in plain] + [table([{"a\x1b": 1, "": None, "text": b"\xff", "\0": "x"}])]


def _write_parquet(random: Random, folder: Path) -> None:
    text = random.choice(_tables())
    (folder / "train.parquet").write_bytes(mutate.data(random, text) if random.random() < 0.9 else text)


# settings


@cache
def _recipes() -> list[bytes]:
    full = as_yaml(build({}, {"data.path": "rows.jsonl"})).encode()
    lora = as_yaml(build({"strategy": {"name": "lora", "target": ["q_proj"]}}, {})).encode()
    return [full, lora, *(path.read_bytes() for path in sorted((ROOT / "recipes").glob("*.yaml")))]


@cache
def _parsed(text: bytes) -> Any:
    return yaml.safe_load(text)


def _write_recipe(random: Random, folder: Path) -> None:
    text = random.choice(_recipes())
    if random.random() < 0.4:
        text = mutate.as_json(mutate.document(random, _parsed(text)))
    (folder / "recipe.yaml").write_bytes(mutate.data(random, text) if random.random() < 0.7 else text)


def _read_recipe(folder: Path) -> None:
    path = folder / "recipe.yaml"
    as_yaml(build(read(path), {}, str(path)))


def _write_change(random: Random, folder: Path) -> None:
    key = random.choice(
        ("train.seed", "strategy.last_n", "optimizer.beta1", "schedule.name", "a.b", "data.path", "x", ".", "a.")
    )
    value = random.choice(
        (*mutate.PIECES, *(str(each).encode(errors="surrogatepass")[:3000] for each in mutate.VALUES[:40]))
    )
    (folder / "change").write_bytes(mutate.data(random, key.encode() + b"=" + value))


def _read_change(folder: Path) -> None:
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


def _write_mlx_lm(random: Random, folder: Path) -> None:
    text = MLX_LM
    if random.random() < 0.5:
        text = mutate.as_json(mutate.document(random, _parsed(text)))
    (folder / "lora.yaml").write_bytes(mutate.data(random, text) if random.random() < 0.6 else text)


def _read_mlx_lm(folder: Path) -> None:
    recipe, _ = translate(load_yaml(folder / "lora.yaml"))
    build(recipe, {})


def _write_path(random: Random, folder: Path) -> None:
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


def _read_path(folder: Path) -> None:
    (folder / "loop").symlink_to("loop")
    (folder / "afile").touch()
    os.chdir(folder)
    name = (folder / "path").read_text(errors="surrogatepass")
    user_path(name, BadModel)
    outline.outline(name if "/" in name.strip("/") or name.startswith((".", "~", "/")) else f"./{name}")


# models


def _of_built_in(name: str) -> Any:
    return json.loads((BUILT_IN / name).read_text())


@cache
def _configs() -> list[Any]:
    base = _of_built_in("config.json")
    rope = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    yarn = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128, "beta_fast": 32, "beta_slow": 1}
    return [
        base,
        {**base, "rope_scaling": {**rope, "original_max_position_embeddings": 128}},
        {**base, "model_type": "qwen2", "rope_scaling": yarn, "use_sliding_window": True, "sliding_window": 64},
        {**base, "model_type": "qwen3", "layer_types": ["full_attention"] * 5, "rope_parameters": {"rope_theta": 1e6}},
        {**base, "model_type": "gemma3_text", "query_pre_attn_scalar": 256, "sliding_window_pattern": 6},
        {**base, "model_type": "mistral", "sliding_window": 64, "quantization": {"bits": 4, "group_size": 64}},
        {"model_type": "gemma3", "text_config": base, "quantization_config": {"quant_method": "gptq", "bits": 4}},
        {
            **base,
            "model_type": "phi3",
            "rope_scaling": {"type": "longrope", "short_factor": [1.0], "long_factor": [2.0]},
        },
        {**base, "model_type": "mixtral", "num_local_experts": 8, "num_experts_per_tok": 2},
        {"model_type": "gpt2", "n_layer": 2, "n_embd": 8, "n_head": 2, "vocab_size": 32, "n_positions": 64},
    ]


def _write_json(name: str, seeds: Callable[[], list[Any]]) -> Callable[[Random, Path], None]:
    def write(random: Random, folder: Path) -> None:
        text = mutate.as_json(mutate.document(random, random.choice(seeds())))
        (folder / name).write_bytes(mutate.data(random, text) if random.random() < 0.3 else text)

    return write


def _write_config(random: Random, folder: Path) -> None:
    """Half of them beside weights, whose headers say what the config need not."""
    _write_json("config.json", _configs)(random, folder)
    if random.random() < 0.5:
        (folder / "model.safetensors").symlink_to(BUILT_IN / "model.safetensors")


def _read_config(folder: Path) -> None:
    model_config.read(folder)
    with suppress(MlxtuneError):  # the plan is for MLX, which has more
        numpy_config.read(folder)
    recipe = build({}, {"model.name": str(folder), "data.max_seq_length": 64, "backend.name": "mlx"})
    Planner(recipe).plan(recipe)


def _header(random: Random, tensors: Mapping[str, Any]) -> bytes:
    """A safetensors file of small tensors whose header was changed; some keep the length that stands before it."""
    place, entries = 0, {"__metadata__": {"format": "pt"}}
    for name, shape in tensors.items():
        size = 4 * int(np.prod(shape))
        entries[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [place, place + size]}
        place += size
    text = mutate.as_json(entries)
    changed = mutate.as_json(mutate.document(random, entries)) if random.random() < 0.7 else mutate.data(random, text)
    length = len(changed) if random.random() < 0.9 else random.choice((0, 1, len(text), 2**31, 2**62, 2**64 - 1))
    return length.to_bytes(8, "little") + changed + bytes(place)


def _write_model(random: Random, folder: Path) -> None:
    """The built-in model, whole but for one of its documents."""
    changed = random.choice(("config.json", "config.json", "generation_config.json"))
    for path in BUILT_IN.iterdir():
        if path.name == changed:
            (folder / path.name).write_bytes(mutate.as_json(mutate.document(random, _of_built_in(changed))))
        else:
            (folder / path.name).symlink_to(path)


def _read_model(folder: Path) -> None:
    settings = BackendSettings(name="numpy", precision="fp32")
    loaded = try_it.load(str(folder), None, settings)
    list(try_it.complete(loaded, "Once", Sampling(max_tokens=2, temperature=0.0, top_p=1.0, seed=0)))


SMALL = {"model.embed_tokens.weight": (8, 4), "model.norm.weight": (4,), "lm_head.weight": (8, 4)}


def _write_header(random: Random, folder: Path) -> None:
    (folder / "config.json").write_bytes(mutate.as_json(_configs()[0]))
    (folder / "model.safetensors").write_bytes(_header(random, SMALL))


def _write_index(random: Random, folder: Path) -> None:
    (folder / "config.json").write_bytes(mutate.as_json(_configs()[0]))
    names = [f"model-{number:05}-of-00002.safetensors" for number in (1, 2)]
    parts = [dict(list(SMALL.items())[number::2]) for number in (0, 1)]
    for name, part in zip(names, parts, strict=True):
        save_file({key: np.zeros(shape, np.float32) for key, shape in part.items()}, folder / name)
    places = {key: name for name, part in zip(names, parts, strict=True) for key in part}
    index = {"metadata": {"total_size": 9}, "weight_map": places}
    text = mutate.as_json(mutate.document(random, index))
    (folder / "model.safetensors.index.json").write_bytes(mutate.data(random, text) if random.random() < 0.3 else text)


def _read_weights(folder: Path) -> None:
    weights.headers(folder)
    fingerprint(folder)
    outline.outline(str(folder))


@cache
def _tokenizers() -> list[dict[str, Any]]:
    """tokenizer.json and tokenizer_config.json: byte-level BPE, words, and Unigram pieces."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    config = _of_built_in("tokenizer_config.json")
    words = Tokenizer(models.WordLevel({word: place for place, word in enumerate(["<unk>", "a", "b", "c"])}, "<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    pieces = Tokenizer(models.Unigram([("<unk>", 0.0), ("▁", -1.0), ("a", -1.5), ("▁a", -2.0)], 0, byte_fallback=False))
    pieces.pre_tokenizer = pre_tokenizers.Metaspace()
    bpe = Tokenizer(models.BPE({"a": 0, "b": 1, "ab": 2}, [("a", "b")]))
    made = [
        {"tokenizer.json": json.loads(each.to_str()), "tokenizer_config.json": config} for each in (words, pieces, bpe)
    ]
    for each in made:
        each["special_tokens_map.json"] = {"eos_token": {"content": "</s>", "lstrip": False}}
        each["generation_config.json"] = {"eos_token_id": [1, 2], "bos_token_id": 0, "temperature": 0.7}
    return made


def _write_tokenizer(random: Random, folder: Path) -> None:
    files = random.choice(_tokenizers())
    changed = random.choice(list(files))
    for name, document in files.items():
        text = mutate.as_json(mutate.document(random, document) if name == changed else document)
        (folder / name).write_bytes(mutate.data(random, text) if name == changed and random.random() < 0.3 else text)


def _read_tokenizer(folder: Path) -> None:
    shutil.copy(BUILT_IN / "config.json", folder)
    tokens = tokenizer.load(folder)
    tokenizer.check_vocabulary(tokens, model_config.read(folder))
    rows = folder / "rows"
    rows.mkdir()
    (rows / "train.jsonl").write_bytes(b"\n".join(map(mutate.as_json, ROWS[:1])))
    _read_rows(rows, tokens)


TEMPLATES = tuple(
    text.encode()
    for text in (
        "{% for message in messages %}{{ '<|' + message.role + '|>' + message.content + '<|end|>' }}{% endfor %}",
        """{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}
{{ eos_token }}{% endgeneration %}{% else %}{{ m.content|trim }}{% endif %}{% endfor %}
{% if add_generation_prompt %}A:{% endif %}""",
        """{% if tools %}{{ tools|tojson }}{% endif %}{% set ns = namespace(n=0) %}{% for m in messages %}
{% if m.tool_calls %}{{ m.tool_calls[0].function.name }}{% endif %}
{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}
{{ m['role'].upper() }}: {{ m['content'] }}
{{ strftime_now('%d %b %Y') }}{% endfor %}""",
    )
)


def _write_template(random: Random, folder: Path) -> None:
    (folder / "template").write_bytes(mutate.data(random, random.choice(TEMPLATES)))
    (folder / "rows").mkdir()
    (folder / "rows" / "train.jsonl").write_bytes(b"\n".join(map(mutate.as_json, random.choices(ROWS, k=2))))


def _read_template(folder: Path) -> None:
    tokens = _built_in_tokenizer()
    before = tokens.chat_template
    try:
        tokens.chat_template = (folder / "template").read_bytes().decode(errors="replace")
        _read_rows(folder / "rows", tokens)
    finally:
        tokens.chat_template = before


@cache
def _parameters() -> dict[str, tuple[int, ...]]:
    return {name: info.shape for name, info in weights.headers(BUILT_IN).items()}


def _linears() -> dict[str, tuple[int, int]]:
    shapes = {name.removesuffix(".weight"): shape for name, shape in _parameters().items() if ".layers." in name}
    return {name: (shape[1], shape[0]) for name, shape in shapes.items() if len(shape) == 2}


def _write_adapter(random: Random, folder: Path) -> None:
    module = "model.layers.4.mlp.up_proj"
    lora = {"rank": 2, "scale": 1.0, "dropout": 0.0, "keys": ["mlp.up_proj"]}
    about = {"fine_tune_type": "lora", "num_layers": 1, "lora_parameters": lora, "mlxtune": {"untied_head": False}}
    tensors = {f"{module}.lora_a": (96, 2), f"{module}.lora_b": (2, 112)}
    if random.random() < 0.2:
        about["fine_tune_type"], tensors = "full", {"model.norm.weight": (96,)}
    in_config = random.random() < 0.6
    text = mutate.as_json(mutate.document(random, about) if in_config else about)
    (folder / adapter.CONFIG).write_bytes(mutate.data(random, text) if in_config and random.random() < 0.3 else text)
    if in_config:
        save_file({name: np.zeros(shape, np.float32) for name, shape in tensors.items()}, folder / adapter.WEIGHTS)
    else:
        (folder / adapter.WEIGHTS).write_bytes(_header(random, tensors))


def _read_adapter(folder: Path) -> None:
    found: Adapter = adapter.find(folder)
    adapter_fit.check(folder, _parameters(), _linears())
    numpy_adapter.apply(found, {name: np.zeros(shape, np.float32) for name, shape in _parameters().items()})


# runs


@cache
def _run() -> dict[str, bytes]:
    """The files of a run of a step."""
    from tempfile import TemporaryDirectory

    from mlxtune import run

    with TemporaryDirectory() as place:
        out = Path(place) / "run"
        keys = {
            "strategy.last_n": 1,
            "strategy.head": False,
            "run.out": str(out),
            "train.max_steps": 1,
            "train.batch_size": 1,
            "backend.name": "numpy",
        }
        run.start(build({}, {**keys, "data.max_seq_length": 64, "backend.prefix_cache": "off"}))
        files = [path for path in sorted(out.rglob("*")) if path.is_file()]
        return {str(path.relative_to(out)): path.read_bytes() for path in files}


def _write_run(random: Random, folder: Path) -> None:
    files = _run()
    changed = random.choice([name for name in files if not name.endswith(".lock")])
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if name == changed:
            with suppress(ValueError):  # YAML, or JSON lines
                text = mutate.as_json(mutate.document(random, json.loads(text))) if random.random() < 0.5 else text
            text = mutate.data(random, text)
        (folder / name).write_bytes(text)


def _read_run(folder: Path) -> None:
    """What a resumed run reads, each file whether or not one before it is refused."""
    first: list[MlxtuneError] = []
    for part in (_resumed, checkpoint.newest, lambda run: last_end(run / "metrics.jsonl"), _logged):
        try:
            part(folder)
        except MlxtuneError as fault:
            first.append(fault)
    if first:
        raise first[0]


def _resumed(folder: Path) -> None:
    run_folder.check(folder, new=False)
    recipe = build(run_folder.saved_recipe(folder), {}, str(folder))
    run_folder.differences(recipe, {"model": "a" * 64, "data": "b" * 64}, folder)


def _logged(folder: Path) -> None:
    list(replay(folder / "metrics.jsonl"))
    rewind(folder / "metrics.jsonl", 1)


KINDS: Mapping[str, Kind] = {
    "rows": Kind(_write_rows, _read_rows, 260),
    "parquet": Kind(_write_parquet, _read_rows, 30),
    "recipe": Kind(_write_recipe, _read_recipe, 140),
    "set": Kind(_write_change, _read_change, 60),
    "mlx-lm": Kind(_write_mlx_lm, _read_mlx_lm, 80),
    "path": Kind(_write_path, _read_path, 20),
    "config": Kind(_write_config, _read_config, 120),
    "model": Kind(_write_model, _read_model, 10),
    "header": Kind(_write_header, _read_weights, 80),
    "index": Kind(_write_index, _read_weights, 40),
    "tokenizer": Kind(_write_tokenizer, _read_tokenizer, 30),
    "template": Kind(_write_template, _read_template, 40),
    "adapter": Kind(_write_adapter, _read_adapter, 60),
    "run": Kind(_write_run, _read_run, 40),
}

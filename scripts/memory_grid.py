#!/usr/bin/env python3
"""The plan beside the peak of real runs: models, strategies, batches, lengths and settings in a grid.

    .venv/bin/python scripts/memory_grid.py [--backend mlx numpy] [--only NUMBER ...]
    .venv/bin/python scripts/memory_grid.py --flat     (500 steps of rows of many lengths: what is held between steps)

Each row is `mlxtune train` in a process of its own, on random weights and rows of random words; predicted is what the
run said before it began, measured is the backend's peak at its end. The figures are in megabytes.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from shutil import copy
from statistics import median
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from mlxtune.models import config as model_config
from mlxtune.models.dimensions import Dimensions
from mlxtune.models.hub import BUILT_IN
from mlxtune.models.shapes import shapes

Size = tuple[int, int, int, int, int]  # layers, hidden, inner, heads, key-value heads
TINY, SMALL, MIDDLE, LARGE = (5, 64, 172, 8, 4), (4, 256, 768, 8, 4), (8, 512, 1408, 8, 8), (8, 768, 2048, 12, 4)
LAST_2, LAST_1, FULL = ("--last-n", "2"), ("--last-n", "1"), ("--strategy", "full")
LORA, LORA_2 = ("--strategy", "lora", "--rank", "16"), ("--strategy", "lora", "--last-n", "2")
WORDS = ("the", "little", "mouse", "has", "a", "key", "that", "opens", "up", "old", "oak", "tree", "at", "night")
KEPT, NOT_KEPT, RECOMPUTE = ("--prefix-cache", "on"), ("--prefix-cache", "off"), ("--grad-checkpoint",)


@dataclass(frozen=True)
class Case:
    """tied: the head is the embedding. ragged: rows of one to `length` tokens, with prompts that carry no loss."""

    size: Size
    flags: tuple[str, ...]
    batch: int = 1
    length: int = 256
    vocabulary: int = 2000
    tied: bool = False
    ragged: bool = False
    accum: int = 1
    precision: str = "fp32"
    family: str = "llama"
    more: dict[str, Any] = field(default_factory=dict)  # of config.json


CASES = (
    Case(TINY, LAST_2, 4, 128, tied=True),
    Case(TINY, FULL, 8, 64),
    Case(SMALL, LAST_2 + KEPT, 4, 256),
    Case(SMALL, LAST_2 + NOT_KEPT, 4, 256),
    Case(SMALL, LAST_2 + KEPT, 4, 512, ragged=True),
    Case(SMALL, LAST_2 + NOT_KEPT, 8, 256, 32_000, ragged=True),
    Case(SMALL, LAST_2 + KEPT, 1, 1024),
    Case(SMALL, FULL, 2, 256, 8000),
    Case(SMALL, FULL, 2, 256, 8000, tied=True),
    Case(SMALL, FULL + RECOMPUTE, 2, 512, 8000),
    Case(SMALL, (*FULL, "--clip-norm", "none"), 2, 256, 8000),
    Case(SMALL, LORA, 4, 128),
    Case(SMALL, LORA + RECOMPUTE, 4, 256),
    Case(SMALL, LORA_2 + KEPT, 4, 256, tied=True),
    Case(SMALL, LAST_2 + NOT_KEPT + ("--head",), 2, 256, 16_000, tied=True),
    Case(SMALL, LAST_2 + NOT_KEPT, 2, 256, 8000, accum=2),
    Case(SMALL, LAST_2 + NOT_KEPT, 4, 256, 8000, precision="bf16"),
    Case(SMALL, (*FULL, "--moments", "bf16"), 1, 128, 8000, precision="bf16"),
    Case(MIDDLE, LAST_2 + KEPT, 2, 512, 16_000),
    Case(MIDDLE, FULL, 1, 128, 16_000),
    Case(MIDDLE, FULL, 1, 512, 4000, accum=2),
    Case(MIDDLE, LORA, 2, 256, 16_000, precision="bf16"),
    Case(MIDDLE, LAST_1 + NOT_KEPT, 2, 512, 64_000),
    Case(LARGE, LAST_2 + KEPT, 1, 512, 32_000),
    Case(LARGE, LAST_2 + NOT_KEPT, 4, 64, 32_000, precision="bf16"),
    Case(LARGE, FULL + RECOMPUTE, 1, 256, 32_000),
    Case(SMALL, LAST_2 + KEPT, 4, 256, family="qwen3"),
    Case(SMALL, FULL, 4, 128, family="qwen2", tied=True),
)


def write_model(case: Case, folder: Path) -> None:
    """Random weights in Hugging Face format, with the built-in tokenizer."""
    n_layers, hidden, inner, heads, kv_heads = case.size
    about = {
        "model_type": case.family,
        "num_hidden_layers": n_layers,
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": hidden // heads,
        "vocab_size": case.vocabulary,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
        "rope_theta": 1e4,
        "tie_word_embeddings": case.tied,
        **case.more,
    }
    (folder / "config.json").write_text(json.dumps(about))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        copy(BUILT_IN / name, folder / name)
    dimensions = Dimensions.of(model_config.read(folder))
    assert dimensions is not None
    drawn = np.random.default_rng(0)
    tensors = {
        name: (drawn.standard_normal(shape, np.float32) * 0.5 / shape[-1] ** 0.5 + (len(shape) == 1)).astype(np.float32)
        for name, shape in shapes(dimensions).items()
    }
    save_file(tensors, folder / "model.safetensors")


def write_rows(case: Case, folder: Path) -> Path:
    """A text that is cut into windows of the length, or prompts with completions of many lengths."""
    drawn = random.Random(0)
    if not case.ragged:
        path = folder / "rows.txt"
        path.write_text(" ".join(drawn.choice(WORDS) for _ in range(case.length * case.batch * case.accum * 8)))
        return path
    path = folder / "rows.jsonl"
    rows = []
    for _ in range(case.batch * 32 if case is FLAT else case.batch * 8):
        n_words = drawn.randint(8, case.length // 3)
        text = [drawn.choice(WORDS) for _ in range(n_words)]
        rows.append({"prompt": " ".join(text[: n_words // 2]), "completion": " ".join(text[n_words // 2 :])})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


FLAT = Case(TINY, FULL, 4, 512, ragged=True)


def run(case: Case, backend: str, steps: int = 3) -> list[dict[str, Any]]:
    """The events of a run."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_model(case, folder)
        flags = [*case.flags, "--batch-size", case.batch, "--grad-accum", case.accum, "--precision", case.precision]
        flags += ["--max-seq-length", case.length, "--max-steps", steps, "--backend", backend, "--out", folder / "run"]
        command = ["train", "--model", folder, "--data", write_rows(case, folder), *flags, "--json"]
        environment = {**os.environ, "MLXTUNE_CACHE": str(folder / "cache")}
        done = subprocess.run(
            [sys.executable, "-m", "mlxtune", *map(str, command)], env=environment, capture_output=True, text=True
        )
        if done.returncode:
            sys.exit(f"{case}\n{done.stderr}")
        return [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]


def flat(backend: str) -> None:
    """Active and cached bytes after some of 500 steps, each of another length."""
    print(f"| {backend}, step | active | cache | peak |\n|---|---|---|---|")
    for event in run(FLAT, backend, steps=500):
        if event["event"] == "step" and (event["step"] in (1, 10) or event["step"] % 100 == 0):
            held = (event[f"{name}_memory_bytes"] / 1e6 for name in ("active", "cache", "peak"))
            print(f"| {event['step']} | " + " | ".join(f"{each:.1f}" for each in held) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", nargs="+", choices=("mlx", "numpy"), default=["mlx"])
    parser.add_argument("--only", type=int, nargs="+", help="numbers of cases")
    parser.add_argument("--flat", action="store_true", help="500 steps of many shapes instead")
    options = parser.parse_args()
    if options.flat:
        for backend in options.backend:
            flat(backend)
        return
    for backend in options.backend:
        print(f"\n| {backend} | parameters | trains | rows | vocabulary | | predicted | measured | off by |")
        print("|---|---|---|---|---|---|---|---|---|")
        errors = []
        for number, case in enumerate(CASES, start=1):
            if options.only and number not in options.only:
                continue
            start, *_, end = run(case, backend)
            predicted, measured = start["predicted_peak_bytes"], end["peak_memory_bytes"]
            n_parameters = start["trainable_parameters"] + start["frozen_parameters"]
            errors.append(abs(predicted / measured - 1))
            print(_row(number, case, predicted, measured, n_parameters), flush=True)
        print(f"\n{len(errors)} runs: off by {median(errors):.1%} at the median, {max(errors):.1%} at most")


def _row(number: int, case: Case, predicted: int, measured: int, n_parameters: int) -> str:
    rows = f"{case.batch} x {case.length}" + (" ragged" if case.ragged else "")
    rows += f", {case.accum} times" if case.accum > 1 else ""
    about = ", ".join(
        [case.precision, *(["tied"] if case.tied else []), *([case.family] if case.family != "llama" else [])]
    )
    flags = " ".join(case.flags)
    cells = (number, f"{n_parameters / 1e6:.1f}M", flags, rows, f"{case.vocabulary:,}", about)
    figures = (f"{predicted / 1e6:.1f}", f"{measured / 1e6:.1f}", f"{predicted / measured - 1:+.1%}")
    return "| " + " | ".join(map(str, (*cells, *figures))) + " |"


if __name__ == "__main__":
    main()

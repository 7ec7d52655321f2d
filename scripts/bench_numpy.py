#!/usr/bin/env python3
"""Step time and memory of the NumPy backend against PyTorch eager, on the same weights and batches, in one run.

    scripts/bench numpy [--threads 1 2] [--sizes 46K 558K 10M 56M] [--rounds 9]

The two take turns, each in a process of its own, so that what else the machine does meets both, and no side's idle
threads are on the cores in another's turn; where steps are short there are more rounds. A ratio is the median of the
rounds' own ratios, as a processor's clock changes between rounds; below 1 it says that NumPy is faster. PyTorch's side
is a plain module: RMSNorm, scaled_dot_product_attention, cross_entropy, AdamW(fused=True).
"kept" is a step of an epoch after the first, when the frozen layers' output is there already. "MLX" is the MLX backend
on the same processor, with a system OpenBLAS: what `--backend auto` weighs there.
"""

import argparse
import importlib.util
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np

from mlxtune.backends import blas
from mlxtune.backends.resident import peak_resident_bytes


class Size(NamedTuple):
    layers: int
    hidden: int
    inner: int
    heads: int
    kv_heads: int
    vocabulary: int
    rows: int
    tokens: int  # that are read
    tied: bool


SIZES = {
    "46K": Size(1, 64, 88, 4, 2, 256, 1, 64, tied=True),
    "558K": Size(2, 128, 512, 4, 4, 256, 1, 64, tied=True),
    "10M": Size(8, 256, 768, 8, 4, 8_000, 4, 256, tied=False),
    "56M": Size(8, 512, 1408, 8, 4, 32_000, 2, 256, tied=False),
}
STRATEGIES = ("full", "last-2")
SHARES = (1.0, 0.5)  # of the positions that carry loss
RATE = 1e-4
FEWEST, TURN_SECONDS = 3, 0.1  # of steps in a turn, as a run takes one after the other: the caches are then warm
CELL_SECONDS = 15  # at least, over all rounds: what disturbs a machine often takes some seconds
PAUSE_SECONDS = 0.3  # idle threads of a BLAS keep their core busy for a while, and it is another side's turn
Step = Callable[[], float]


def config(size: Size) -> dict[str, Any]:
    """The config.json of a size."""
    return {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "num_hidden_layers": size.layers,
        "hidden_size": size.hidden,
        "intermediate_size": size.inner,
        "num_attention_heads": size.heads,
        "num_key_value_heads": size.kv_heads,
        "vocab_size": size.vocabulary,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": size.tied,
    }


def write_model(size: Size, folder: Path) -> None:
    """A random model in Hugging Face format."""
    from safetensors.numpy import save_file

    from mlxtune.backends.numpy.config import read
    from mlxtune.models.shapes import shapes

    (folder / "config.json").write_text(json.dumps(config(size)))
    random = np.random.default_rng(0)
    tensors = {}
    for name, shape in shapes(read(folder)).items():
        spread = 0.1 if len(shape) == 1 else 0.5 / shape[1] ** 0.5
        tensors[name] = (random.standard_normal(shape, np.float32) * spread + (len(shape) == 1)).astype(np.float32)
    save_file(tensors, folder / "model.safetensors")


def batch(size: Size, share: float) -> Any:
    """Rows of random tokens; the last `share` of the positions carries loss."""
    from mlxtune.data.types import Batch

    tokens = np.random.default_rng(1).integers(0, size.vocabulary, (size.rows, size.tokens + 1)).astype(np.int32)
    supervised = np.zeros(tokens.shape, np.bool_)
    supervised[:, 1 + int(size.tokens * (1 - share)) :] = True
    lengths = np.full(size.rows, size.tokens + 1, np.int32)
    return Batch(tuple(range(size.rows)), tokens.reshape(-1), supervised.reshape(-1), lengths, size.tokens + 1)


def job(size: Size, folder: Path, strategy: str, *, kept: bool = False) -> Any:
    from mlxtune.backends.base import Job
    from mlxtune.optim.adamw import AdamW
    from mlxtune.strategies.full import Full
    from mlxtune.strategies.last_n import LastN

    chosen = Full() if strategy == "full" else LastN(last_n=min(2, size.layers))
    return Job(folder, "fp32", chosen, AdamW(), None, 0, "on" if kept else "off", batch_rows=size.rows)


def numpy_step(size: Size, folder: Path, strategy: str, share: float, *, kept: bool) -> Step:
    from mlxtune.backends.numpy.blueprint import NumpyBlueprint

    return step_of(NumpyBlueprint(job(size, folder, strategy, kept=kept)), batch(size, share))


def mlx_step(size: Size, folder: Path, strategy: str, share: float) -> Step:
    from mlxtune.backends.mlx.blueprint import MlxBlueprint

    return step_of(MlxBlueprint(job(size, folder, strategy)), batch(size, share))


def step_of(blueprint: Any, rows: Any) -> Step:
    learner = blueprint.learner()

    def step() -> float:
        loss = learner.step([rows], RATE).loss
        return loss.loss_sum / loss.counted

    return step


def torch_step(size: Size, folder: Path, strategy: str, share: float) -> Step:
    import torch
    from safetensors.torch import load_file
    from torch import nn
    from torch.nn import functional

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    head_dim = size.hidden // size.heads
    angles = torch.arange(size.tokens)[:, None] * 10_000.0 ** (-torch.arange(0, head_dim, 2) / head_dim)
    cos, sin = torch.cat([angles.cos()] * 2, -1), torch.cat([angles.sin()] * 2, -1)

    def rotate(x: Any) -> Any:
        first, second = x.chunk(2, -1)
        return x * cos + torch.cat([-second, first], -1) * sin

    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            kv = size.kv_heads * head_dim
            self.input_layernorm = nn.RMSNorm(size.hidden, eps=1e-5)
            self.post_attention_layernorm = nn.RMSNorm(size.hidden, eps=1e-5)
            linear = {"q_proj": (size.hidden, size.hidden), "k_proj": (size.hidden, kv), "v_proj": (size.hidden, kv)}
            linear["o_proj"] = (size.hidden, size.hidden)
            self.self_attn = nn.ModuleDict({name: nn.Linear(*io, bias=False) for name, io in linear.items()})
            inner = dict.fromkeys(("gate_proj", "up_proj"), (size.hidden, size.inner))
            inner["down_proj"] = (size.inner, size.hidden)
            self.mlp = nn.ModuleDict({name: nn.Linear(*io, bias=False) for name, io in inner.items()})

        def forward(self, x: Any) -> Any:
            attention, mlp, shape = self.self_attn, self.mlp, (size.rows, size.tokens, -1, head_dim)
            h = self.input_layernorm(x)
            q, k, v = (attention[f"{name}_proj"](h).view(shape).transpose(1, 2) for name in "qkv")
            q, k, group = rotate(q), rotate(k), size.heads // size.kv_heads
            if group > 1:
                k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
            out = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + attention["o_proj"](out.transpose(1, 2).reshape(x.shape))
            h = self.post_attention_layernorm(x)
            return x + mlp["down_proj"](functional.silu(mlp["gate_proj"](h)) * mlp["up_proj"](h))

    class Decoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = nn.ModuleDict({"embed_tokens": nn.Embedding(size.vocabulary, size.hidden)})
            self.model["layers"] = nn.ModuleList(Layer() for _ in range(size.layers))
            self.model["norm"] = nn.RMSNorm(size.hidden, eps=1e-5)
            self.lm_head = nn.Linear(size.hidden, size.vocabulary, bias=False)

        def forward(self, tokens: Any) -> Any:
            x = self.model["embed_tokens"](tokens)
            for layer in self.model["layers"]:
                x = layer(x)
            return self.lm_head(self.model["norm"](x))

    decoder = Decoder()
    if size.tied:
        decoder.lm_head.weight = decoder.model["embed_tokens"].weight
    decoder.load_state_dict(load_file(folder / "model.safetensors"), strict=not size.tied)
    if strategy != "full":
        decoder.model["embed_tokens"].requires_grad_(requires_grad=False)
        for layer in list(decoder.model["layers"])[:-2]:
            layer.requires_grad_(requires_grad=False)
    trained = [parameter for parameter in decoder.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=RATE, fused=True)
    rows = batch(size, share)
    tokens = torch.from_numpy(rows.tokens_BT.astype(np.int64))
    targets = tokens[:, 1:].masked_fill(torch.from_numpy(~rows.supervised_BT[:, 1:]), -100)

    def step() -> float:
        optimizer.zero_grad()
        loss = functional.cross_entropy(decoder(tokens[:, :-1]).flatten(0, 1), targets.flatten(), ignore_index=-100)
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return step


def steps_of(side: str, size: Size, folder: Path, strategy: str, share: float) -> Step:
    if side == "torch":
        return torch_step(size, folder, strategy, share)
    if side == "mlx":
        blas.load_openblas()
        return mlx_step(size, folder, strategy, share)
    return numpy_step(size, folder, strategy, share, kept=side == "kept")


def serve(side: str, size: Size, folder: Path, strategy: str, share: float) -> None:
    """The first loss, and then, for each count of steps that is asked for, the seconds of each."""
    step = steps_of(side, size, folder, strategy, share)
    print(json.dumps(step()), flush=True)
    for line in sys.stdin:
        print(json.dumps([_timed(step) for _ in range(int(line))]), flush=True)


def measure(name: str, strategy: str, share: float, threads: int, rounds: int) -> dict[str, list[float]]:
    """Each side's seconds a step in each round, each in a process of its own. Raises where first losses differ."""
    sides = ["torch", "numpy"] + (["kept"] if strategy != "full" and SIZES[name].layers > 2 else [])
    sides += ["mlx"] if importlib.util.find_spec("mlx") and blas.load_openblas() else []
    servers = {side: start(threads, side, name, strategy, share) for side in sides}
    losses = {side: float(json.loads(_line(server))) for side, server in servers.items()}
    assert max(losses.values()) - min(losses.values()) < 1e-3, losses
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    step_seconds = median(_turn(servers["torch"], 3))
    in_turn = max(FEWEST, min(50, int(TURN_SECONDS / step_seconds)))
    for number in range(max(rounds, int(CELL_SECONDS / (len(sides) * in_turn * step_seconds)))):
        for side in sides if number % 2 == 0 else reversed(sides):
            seconds[side].append(median(_turn(servers[side], in_turn)))
            time.sleep(PAUSE_SECONDS if threads > 1 else 0)
    for server in servers.values():
        server.communicate()
    return seconds


def _turn(server: "subprocess.Popen[str]", n_steps: int) -> list[float]:
    assert server.stdin is not None
    server.stdin.write(f"{n_steps}\n")
    server.stdin.flush()
    found: list[float] = json.loads(_line(server))
    return found


def _line(server: "subprocess.Popen[str]") -> str:
    assert server.stdout is not None
    return server.stdout.readline()


def _timed(step: Step) -> float:
    began = time.perf_counter()
    step()
    return time.perf_counter() - began


def peak_bytes(step_of: Callable[[], Step]) -> int:
    """What three steps, and the model before them, add to the largest resident size of this process."""
    before = peak_resident_bytes()
    step = step_of()
    for _ in range(3):
        step()
    return peak_resident_bytes() - before


def worker(what: str, side: str, name: str, strategy: str, share: float) -> None:
    """One side, in a process of its own; prints JSON. what: "serve" or "memory"."""
    size = SIZES[name]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_model(size, folder)
        if what == "serve":
            serve(side, size, folder, strategy, share)
        elif side == "numpy":
            from mlxtune.backends.numpy import learner  # noqa: F401 - so that its own size is there before

            print(peak_bytes(lambda: numpy_step(size, folder, strategy, share, kept=False)))
        else:
            import torch  # noqa: F401 - so that its own size is there before

            print(peak_bytes(lambda: torch_step(size, folder, strategy, share)))


def start(
    threads: int, side: str, name: str, strategy: str, share: float, what: str = "serve"
) -> "subprocess.Popen[str]":
    """A worker with so many threads."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
    environment = {**os.environ, **dict.fromkeys(names, str(threads))}
    command = [sys.executable, __file__, "--worker", what, side, name, strategy, str(share)]
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    return subprocess.Popen(command, env=environment, text=True, **pipes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--worker", nargs=5, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        what, side, name, strategy, share = options.worker
        worker(what, side, name, strategy, float(share))
        return
    blas.configure()  # for the processes that measure
    import torch

    print(f"Python {platform.python_version()}, NumPy {np.__version__}, PyTorch {torch.__version__}, {_processor()}\n")
    print("| size | trains | loss on | threads | PyTorch ms | NumPy ms | ratio | kept | memory | MLX ms |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for name in options.sizes:
        for strategy in STRATEGIES:
            for share in SHARES:
                for threads in options.threads:
                    print(_row(name, strategy, share, threads, options), flush=True)


def _row(name: str, strategy: str, share: float, threads: int, options: argparse.Namespace) -> str:
    found = measure(name, strategy, share, threads, options.rounds)
    kept = _ratio(found["kept"], found["torch"]) if "kept" in found else ""
    ours, theirs = (
        0 if options.no_memory else int(start(threads, side, name, strategy, share, "memory").communicate()[0])
        for side in ("numpy", "torch")
    )
    cells = [name, strategy, "all" if share == 1 else "half", threads]
    cells += [f"{median(found[side]) * 1e3:,.2f}" for side in ("torch", "numpy")]
    cells += [_ratio(found["numpy"], found["torch"]), kept, f"{ours / theirs:.2f}" if theirs else ""]
    cells.append(f"{median(found['mlx']) * 1e3:,.2f}" if "mlx" in found else "")
    return "| " + " | ".join(map(str, cells)) + " |"


def _ratio(ours: list[float], theirs: list[float]) -> str:
    return f"{median(mine / other for mine, other in zip(ours, theirs, strict=True)):.2f}"


def _processor() -> str:
    from mlxtune.backends.numpy.device import name

    return name()


if __name__ == "__main__":
    main()

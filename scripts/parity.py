#!/usr/bin/env python3
"""Losses of small random models of many families on both backends, beside transformers' in PyTorch, as a table.

    scripts/parity [FAMILY ...] [--short] [--output FILE]

Each model has four layers (Gemma 3 six) and is saved by transformers, then loaded as any model is. Figures are the
largest relative difference: of all logits of a row of 41 tokens; of its loss; and of the losses of 20 steps of AdamW at
a rate of 1e-3 on packed rows of 41, 30 and 22 tokens, where everything, the last two layers, or LoRA on the attention
trains. --short leaves out the steps. What is refused is quoted.
"""

import argparse
import logging
import re
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from mlxtune.adapters.adapter import parameters
from mlxtune.backends.base import Job
from mlxtune.data.types import Batch
from mlxtune.errors import MlxtuneError
from mlxtune.optim.adamw import AdamW
from mlxtune.strategies.choose import Strategy
from mlxtune.strategies.full import Full
from mlxtune.strategies.last_n import LastN
from mlxtune.strategies.lora import Lora
from scripts.parity_cases import CASES, FAMILIES, Case, write

STEPS, RATE, LENGTHS = 20, 1e-3, (41, 30, 22)
STRATEGIES: dict[str, Strategy] = {
    "full": Full(),
    "last 2": LastN(last_n=2),
    "LoRA": Lora(rank=4, scale=2.0, target=("self_attn.*",)),
}


class Result(NamedTuple):
    """A row of the table: differences, None where a column does not apply, or the refusal."""

    case: Case
    backend: str
    differences: dict[str, float | None]
    refused: str = ""

    def __str__(self) -> str:
        columns = ("logits", "loss", *STRATEGIES)
        if self.refused:
            return f"| {self.case.family} | {self.case.variant} | {self.backend} | {self.refused} |" + " |" * 4
        cells = ["" if (found := self.differences.get(name)) is None else f"{found:.0e}" for name in columns]
        return "| " + " | ".join([self.case.family, self.case.variant, self.backend, *cells]) + " |"


def batch_of(seed: int, lengths: Sequence[int] = LENGTHS) -> Batch:
    """Rows of random tokens, all with loss."""
    inside_BT = np.arange(max(lengths)) < np.array(lengths)[:, None]
    tokens_BT = np.random.default_rng(seed).integers(3, 160, inside_BT.shape) * inside_BT
    tokens_N = tokens_BT[inside_BT].astype(np.int32)
    lengths_B = np.array(lengths, np.int32)
    return Batch(tuple(range(len(lengths))), tokens_N, np.ones(len(tokens_N), np.bool_), lengths_B, max(lengths))


class Torch:
    """A folder's model in PyTorch, and what trains of it."""

    def __init__(self, folder: Path) -> None:
        from transformers import AutoModelForCausalLM

        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
        self.model.eval()

    def logits(self, tokens_T: np.ndarray) -> torch.Tensor:
        """Of a row by itself: nothing is padded. A length-dependent RoPE begins anew."""
        for module in self.model.modules():
            if hasattr(module, "original_inv_freq") and hasattr(module, "original_max_seq_len"):
                module.max_seq_len_cached = module.original_max_seq_len
                module.inv_freq = module.original_inv_freq.clone()
        return self.model(input_ids=torch.tensor(tokens_T.astype(np.int64))[None]).logits[0]

    def loss(self, batch: Batch) -> torch.Tensor:
        """The mean over the batch's tokens. The last token of a row is predicted and not read."""
        total = torch.zeros(())
        for row in batch.tokens:
            targets = torch.tensor(row[1:].astype(np.int64))
            total = total + torch.nn.functional.cross_entropy(self.logits(row[:-1]), targets, reduction="sum")
        return total / int((batch.lengths_B - 1).sum())

    def curve(self, learner: Any) -> np.ndarray | None:
        """The losses of the steps; None where the learner's modules have other names here."""
        adapters = learner.parts.selection.adapters
        trained = self._adapt(adapters, learner) if adapters else self._trained(learner.job.strategy)
        if trained is None:
            return None
        optimizer = torch.optim.AdamW(trained, lr=RATE, weight_decay=0.0)
        losses = []
        for step in range(STEPS):
            optimizer.zero_grad()
            loss = self.loss(batch_of(step % 4))
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return np.array(losses)

    def _trained(self, strategy: Strategy) -> list[torch.nn.Parameter]:
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad = isinstance(strategy, Full) or self._is_last(name)
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]

    def _is_last(self, name: str) -> bool:
        """Whether it is of the last two layers, the final norm, or the weight of a head of its own."""
        n_layers = self.model.config.num_hidden_layers
        if number := re.search(r"\.(?:layers|h)\.(\d+)\.", name):
            return int(number[1]) >= n_layers - 2
        return "norm" in name or "ln_f" in name or name in ("lm_head.weight", "embed_out.weight")

    def _adapt(self, adapters: Sequence[Any], learner: Any) -> list[torch.nn.Parameter] | None:
        """LoRA by hooks, beginning with the learner's own A."""
        modules = dict(self.model.named_modules())
        if any(not isinstance(modules.get(adapter.module), torch.nn.Linear) for adapter in adapters):
            return None
        self.model.requires_grad_(False)
        begins = {tensor.info.name: torch.tensor(np.array(tensor.read())) for tensor in learner.weights()}
        made = []
        for adapter in adapters:
            a, b = (torch.nn.Parameter(begins[name].float()) for name in parameters([adapter]))
            modules[adapter.module].register_forward_hook(_low_rank(a, b, adapter.settings.scale))
            made += [a, b]
        return made


def _low_rank(a: torch.nn.Parameter, b: torch.nn.Parameter, scale: float) -> Callable[..., torch.Tensor]:
    return lambda _, given, out: out + scale * (given[0] @ a @ b)


def mlx_logits(folder: Path, tokens_T: np.ndarray) -> np.ndarray:
    """(T, V), by the model as it is loaded for a run."""
    import mlx.core as mx

    from mlxtune.backends.mlx.model.load import load_lazily

    model = load_lazily(folder, "fp32")
    model.eval()
    try:
        return np.array(model(mx.array(tokens_T)[None])[0])
    except AttributeError:  # mlx-lm's code: the check at the start of a run says so
        learner_of("mlx", folder, Full())
        raise


def numpy_logits(folder: Path, tokens_T: np.ndarray) -> np.ndarray:
    """Of the last token, (1, V)."""
    from mlxtune.backends.numpy.generating import next_logits
    from mlxtune.backends.numpy.speaker import NumpySpeaker

    return next_logits(NumpySpeaker(folder, None, "fp32").model, tokens_T.tolist())[None]


def learner_of(backend: str, folder: Path, strategy: Strategy) -> Any:
    """A learner that is ready to step."""
    if backend == "mlx":
        from mlxtune.backends.mlx.blueprint import MlxBlueprint as Blueprint
    else:
        from mlxtune.backends.numpy.blueprint import NumpyBlueprint as Blueprint
    return Blueprint(job(folder, strategy)).learner()


def job(folder: Path, strategy: Strategy) -> Job:
    """In float32, with nothing that a plain loop in PyTorch would not do."""
    return Job(folder, "fp32", strategy, AdamW(weight_decay=0.0), None, 0)


def difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The largest, as a share of the largest entry."""
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def compare(case: Case, backend: str, strategies: Sequence[str]) -> Result:
    """One row of the table."""
    with tempfile.TemporaryDirectory() as place:
        folder = write(Path(place), case)
        return compare_folder(case, folder, backend, strategies)


def compare_folder(case: Case, folder: Path, backend: str, strategies: Sequence[str]) -> Result:
    """The row of a folder that is there."""
    row = batch_of(0, LENGTHS[:1]).tokens_BT[0]
    found: dict[str, float | None] = {}
    try:
        ours = (mlx_logits if backend == "mlx" else numpy_logits)(folder, row)
        with torch.no_grad():
            theirs = Torch(folder).logits(row).numpy()
        found["logits"] = difference(ours, theirs[-len(ours) :])
        found["loss"] = abs(_loss(backend, folder) / _torch_loss(folder) - 1)
        for name in strategies:
            found[name] = _steps(backend, folder, STRATEGIES[name])
    except MlxtuneError as error:
        return Result(case, backend, found, _in_a_line(error, folder))
    return Result(case, backend, found)


def _loss(backend: str, folder: Path) -> float:
    if backend == "mlx":
        from mlxtune.backends.mlx.speaker import MlxSpeaker as Speaker
    else:
        from mlxtune.backends.numpy.speaker import NumpySpeaker as Speaker
    loss = Speaker(folder, None, "fp32").evaluate(batch_of(0, LENGTHS[:1]))
    return loss.loss_sum / (LENGTHS[0] - 1)


def _torch_loss(folder: Path) -> float:
    with torch.no_grad():
        return Torch(folder).loss(batch_of(0, LENGTHS[:1])).item()


def _steps(backend: str, folder: Path, strategy: Strategy) -> float | None:
    """The largest relative difference of the losses of the steps; None where the strategy finds nothing to train."""
    try:
        learner = learner_of(backend, folder, strategy)
    except MlxtuneError as error:
        if "strategy.target" in str(error):
            return None
        raise
    theirs = Torch(folder).curve(learner)
    if theirs is None:
        return None
    results = [learner.step([batch_of(step % 4)], RATE) for step in range(STEPS)]
    ours = np.array([result.loss.loss_sum / (sum(LENGTHS) - len(LENGTHS)) for result in results])
    return float(np.abs(ours / theirs - 1).max())


def _in_a_line(error: MlxtuneError, folder: Path) -> str:
    first = str(error).splitlines()[0].replace(f"{folder}/", "").replace(str(folder), "the folder")
    return f"refused: {first}"


def quiet() -> None:
    """transformers tells of what is not there; the table is what is wanted."""
    from transformers.utils import logging as transformers_logging

    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    transformers_logging.disable_progress_bar()
    torch.set_num_threads(1)


def results(families: Sequence[str], strategies: Sequence[str]) -> Iterator[Result]:
    """Of every case of the families, on every backend that may have it."""
    from mlxtune.backends.numpy.config import FAMILIES as NUMPY_HAS

    for case in CASES:
        if case.family in families:
            for backend in ("mlx", "numpy") if case.family in NUMPY_HAS else ("mlx",):
                yield compare(case, backend, strategies)


def main() -> None:
    """Prints the table row by row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("families", nargs="*", default=[*FAMILIES], metavar="FAMILY")
    parser.add_argument("--short", action="store_true", help="logits and losses alone, no steps")
    parser.add_argument("--output", type=Path, help="write the table into a file, too")
    arguments = parser.parse_args()
    quiet()
    lines = [f"| family | variant | backend | logits | loss | {' | '.join(STRATEGIES)} |", "|" + "---|" * 8]
    print(*lines, sep="\n", flush=True)
    for result in results(arguments.families, () if arguments.short else [*STRATEGIES]):
        lines.append(str(result))
        print(result, flush=True)
    if arguments.output:
        arguments.output.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    sys.exit(main())

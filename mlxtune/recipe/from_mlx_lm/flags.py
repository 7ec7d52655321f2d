"""The flags of mlx-lm's programs, each with what it is called here."""

from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from mlxtune.adapters.adapter import NAMES


class Ours(NamedTuple):
    """flags: those of mlxtune that do the same, with their values; a verb takes the first that it has.
    otherwise: what to do where there is none."""

    flags: tuple[str, ...]
    otherwise: str


LEAVE_OUT = "leave it out"
METRICS = "leave it out: every step is a line of metrics.jsonl in the run's folder"
ROWS = "leave it out: a run validates as many rows as a fifth of its time allows, all where --eval-every is given"
EVAL = "leave it out, and run `mlxtune eval` afterwards"
MASKED = "leave it out: only answers carry loss; --loss-on last is mlx-lm's last answer alone, --loss-on all no mask"

FLAGS: Mapping[str, Ours] = {
    "--iters": Ours(("--max-steps N",), "the number of steps is an option of `mlxtune train`"),
    "--lr": Ours(("--learning-rate RATE",), "the rate is an option of `mlxtune train`"),
    "--fine-tune-type": Ours((f"--strategy last-n|{'|'.join(NAMES)}|full",), "the adapter says of which kind it is"),
    "--num-layers": Ours(("--last-n N",), "the adapter says which layers it has"),
    "--lora-layers": Ours(("--last-n N",), "the adapter says which layers it has"),
    "--lora-parameters": Ours(("--rank, --scale, --dropout and --target",), "the adapter says them"),
    "--adapter-path": Ours(("--adapter RUN/adapter", "--out RUN"), "the adapter is RUN/adapter of a run's folder"),
    "--adapter-file": Ours(("--adapter RUN/adapter", "--out RUN"), "the adapter is RUN/adapter of a run's folder"),
    "--adapter": Ours(("--out RUN",), "the adapter is RUN/adapter of a run's folder"),
    "--resume-adapter-file": Ours(("--resume RUN", "--adapter RUN/adapter"), LEAVE_OUT),
    "--steps-per-eval": Ours(("--eval-every N",), LEAVE_OUT),
    "--steps-per-report": Ours((), METRICS),
    "--val-batches": Ours((), ROWS),
    "--test": Ours((), EVAL),
    "--test-batches": Ours((), EVAL),
    "--mask-prompt": Ours((), MASKED),
    "--optimizer": Ours(("--optimizer adamw|adam|sgd",), LEAVE_OUT),
    "--lr-schedule": Ours(("--schedule constant|linear|cosine",), LEAVE_OUT),
    "--warmup": Ours(("--warmup-steps N",), LEAVE_OUT),
    "--grad-accumulation-steps": Ours(("--grad-accum N",), LEAVE_OUT),
    "--train": Ours((), "leave it out: the verb is `mlxtune train`"),
    "--config": Ours((), "run `mlxtune run --from-mlx-lm FILE`"),
    "-c": Ours((), "run `mlxtune run --from-mlx-lm FILE`"),
    "--report-to": Ours((), METRICS),
    "--wandb": Ours((), METRICS),
    "--project-name": Ours((), METRICS),
    "--clear-cache-threshold": Ours((), "leave it out: the cache is held to the plan"),
    "--trust-remote-code": Ours((), "leave it out: code that comes with a model never runs"),
    "--temp": Ours(("--temperature T",), LEAVE_OUT),
    "--system-prompt": Ours(("--system TEXT",), "only `mlxtune chat` takes a system message"),
    "--save-path": Ours(("--out RUN",), LEAVE_OUT),
}


def answers(given: Iterable[str], options: Collection[str]) -> list[str]:
    """A sentence for each flag of mlx-lm that the verb, which has these options, does not have.

    >>> answers(["--iters", "--test"], ["--max-steps"])
    ['--iters is --max-steps N here.', '--test: leave it out, and run `mlxtune eval` afterwards.']
    """
    said = []
    for flag in given:
        ours = next((each for each in FLAGS[flag].flags if each.partition(" ")[0].rstrip(",") in options), None)
        said.append(f"{flag} is {ours} here." if ours else f"{flag}: {FLAGS[flag].otherwise}.")
    return said

"""The options of a training run: one table from flag to recipe key."""

from typing import Any, NamedTuple

from mlxtune.adapters.adapter import NAMES


class Flag(NamedTuple):
    flag: str
    key: str  # of the recipe
    kind: Any
    help: str
    panel: str


MODEL, WHAT, HOW, RATE, SAVE = "Model and data", "What trains", "How long, in what portions", "Optimizer", "Run"

FLAGS = (
    Flag(
        "--model", "model.name", str, "Alias, hub id, local folder or preset. Default: the built-in tiny model.", MODEL
    ),
    Flag("--revision", "model.revision", str, "Branch, tag or commit of a hub model.", MODEL),
    Flag(
        "--data",
        "data.path",
        str,
        "File, folder, pattern, hub data set, or URL (s3, gs, https, hf). Default: the built-in rows.",
        MODEL,
    ),
    Flag(
        "--columns",
        "data.columns",
        str,
        "Columns of other names: prompt=question,completion=reply.text; system==TEXT for one text in all rows.",
        MODEL,
    ),
    Flag("--system", "data.system", str, "System message before conversations and prompts that have none.", MODEL),
    Flag("--max-seq-length", "data.max_seq_length", int, "Tokens a row may have. Default: 2048.", MODEL),
    Flag(
        "--loss-on", "data.loss_on", str, "Which tokens carry loss: auto, all, assistant, last. Default: auto.", MODEL
    ),
    Flag(
        "--end-of-turn",
        "data.end_of_turn",
        str,
        "Text or token after each answer, where the template writes none; none: nothing, without a warning.",
        MODEL,
    ),
    Flag(
        "--skip-bad-rows/--refuse-bad-rows",
        "data.skip_bad_rows",
        bool,
        "Leave faulty rows out. Default: refuse.",
        MODEL,
    ),
    Flag(
        "--max-rows", "data.max_rows", int, "First examples to take, before a share is held out. Default: all.", MODEL
    ),
    Flag("--valid", "data.valid", str, "Validation rows: a path, or a share of the rows to hold out, as 0.1.", MODEL),
    Flag("--min-tokens", "data.min_tokens", int, "Leave out rows of fewer tokens.", MODEL),
    Flag("--overlong", "data.overlong", str, "Rows that are too long: skip, truncate or split. Default: skip.", MODEL),
    Flag("--dedup", "data.dedup", str, "exact: leave out rows equal to one before; off. Default: off.", MODEL),
    Flag("--objective", "objective.name", str, "sft, or dpo for pairs of answers. Default: sft.", WHAT),
    Flag("--beta", "objective.beta", float, "DPO: what a change of log-probability is worth. Default: 0.1.", WHAT),
    Flag("--dpo-loss", "objective.loss_type", str, "DPO: sigmoid or hinge. Default: sigmoid.", WHAT),
    Flag("--strategy", "strategy.name", str, f"last-n, {', '.join(NAMES)} or full. Default: last-n.", WHAT),
    Flag("--last-n", "strategy.last_n", str, "Layers from the end, or all. Default: 4; lora: all.", WHAT),
    Flag(
        "--head/--no-head", "strategy.head", bool, "Train the head; unties a tied one. Default: if it is its own.", WHAT
    ),
    Flag("--rank", "strategy.rank", int, "LoRA: rank. Default: 8.", WHAT),
    Flag("--scale", "strategy.scale", float, "LoRA: factor of the addition. Default: 20.", WHAT),
    Flag("--alpha", "strategy.alpha", float, "LoRA: scale times rank, instead of --scale.", WHAT),
    Flag("--dropout", "strategy.dropout", float, "LoRA: dropout of its input. Default: 0.", WHAT),
    Flag(
        "--target", "strategy.target", list[str], "LoRA: module name or pattern; repeatable. Default: all linear.", WHAT
    ),
    Flag("--max-steps", "train.max_steps", int, "Optimizer steps.", HOW),
    Flag("--epochs", "train.epochs", int, "Passes over the rows, instead of --max-steps. Default: 1.", HOW),
    Flag("--batch-size", "train.batch_size", int, "Rows of a micro-batch. Default: 4.", HOW),
    Flag("--grad-accum", "train.grad_accum", int, "Micro-batches of a step. Default: 1.", HOW),
    Flag(
        "--shuffle/--no-shuffle",
        "train.shuffle",
        bool,
        "Rows in random order, or in that of the data. Default: random.",
        HOW,
    ),
    Flag("--seed", "train.seed", int, "Order of the rows, LoRA's start, dropout, rounding. Default: 0.", HOW),
    Flag(
        "--eval-every",
        "train.eval_every",
        int,
        "Steps between validations. Default: a tenth of the run or more, as a fifth of its time allows.",
        HOW,
    ),
    Flag("--patience", "train.patience", int, "Stop after so many validations without a gain.", HOW),
    Flag("--optimizer", "optimizer.name", str, "adamw, adam or sgd. Default: adamw.", RATE),
    Flag("--momentum", "optimizer.momentum", float, "SGD: share of the step before. Default: 0, no state.", RATE),
    Flag("--nesterov/--no-nesterov", "optimizer.nesterov", bool, "SGD: Nesterov's momentum. Default: no.", RATE),
    Flag(
        "--learning-rate",
        "schedule.learning_rate",
        float,
        "Peak rate; sgd needs some hundred times adamw's. Default: 1e-5.",
        RATE,
    ),
    Flag("--schedule", "schedule.name", str, "constant, linear or cosine. Default: constant.", RATE),
    Flag("--warmup-steps", "schedule.warmup_steps", int, "Steps of linear warmup. Default: 0.", RATE),
    Flag("--min-learning-rate", "schedule.min_learning_rate", float, "Where linear and cosine end. Default: 0.", RATE),
    Flag(
        "--weight-decay",
        "optimizer.weight_decay",
        float,
        "adamw: decoupled, times the learning rate. Default: 0.01. adam, sgd: in the gradient. Default: 0.",
        RATE,
    ),
    Flag(
        "--moments",
        "optimizer.moments",
        str,
        "The optimizer's state in fp32, or bf16 in half the bytes. Default: fp32.",
        RATE,
    ),
    Flag("--clip-norm", "train.clip_norm", str, "Largest global gradient norm, or none. Default: 1.0.", RATE),
    Flag("--precision", "backend.precision", str, "bf16, fp16 or fp32. Default: bf16.", RATE),
    Flag("--backend", "backend.name", str, "auto, mlx or numpy. Default: auto.", RATE),
    Flag(
        "--system-blas/--bundled-blas",
        "backend.system_blas",
        bool,
        "MLX on a processor: the system's OpenBLAS or its own. Default: the system's.",
        RATE,
    ),
    Flag(
        "--prefix-cache",
        "backend.prefix_cache",
        str,
        "Keep the frozen layers' output over epochs and runs: auto, on, off. Default: auto.",
        RATE,
    ),
    Flag(
        "--grad-checkpoint/--no-grad-checkpoint",
        "backend.grad_checkpoint",
        bool,
        "Keep only the layers' inputs and compute the rest again: less memory, more time. Default: no.",
        RATE,
    ),
    Flag("--memory-limit", "backend.memory_limit_bytes", str, "Most bytes to take: 24GB. Default: the device's.", RATE),
    Flag("--sample-every", "sample.every", int, "Steps between answers to a few prompts. Default: none.", SAVE),
    Flag(
        "--sample-prompt",
        "sample.prompts",
        list[str],
        "Prompt to answer; repeatable. Default: how the first validation rows begin.",
        SAVE,
    ),
    Flag("--save-every", "checkpoint.save_every", int, "Steps between checkpoints. Default: 100.", SAVE),
    Flag("--keep", "checkpoint.keep", int, "Checkpoints that stay on the disk. Default: 2.", SAVE),
    Flag("--out", "run.out", str, "Run folder. Default: a new one under runs/.", SAVE),
)

"""From a file of chat rows to the first step, beside mlx-lm and `datasets.map`. Usage: scripts/bench data [--rows N]

Each runs in processes of its own, in turn, on the same rows and the same small model. mlx-lm makes tokens of a row when
a batch asks for it and marks no turns unless it is asked to; `datasets.map` renders and tokenizes all rows, in as many
processes as there are cores, and marks none. Here all rows are checked, tokenized and marked before the first step.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

WORDS = (
    "the a cat dog house went to see little girl boy named Tim Lily park happy sad big small tree play with and they"
)
MAP = """
import os, sys
from datasets import load_dataset
from transformers import AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
rows = load_dataset("json", data_files=sys.argv[2], split="train", cache_dir=sys.argv[3])
made = rows.map(lambda row: {"tokens": tokenizer.apply_chat_template(row["messages"])}, num_proc=os.cpu_count())
print(len(made))
"""


class Timed(NamedTuple):
    name: str
    seconds: float
    peak_bytes: int  # of the largest of its processes


def chats(path: Path, count: int) -> None:
    """Rows of one question of 120 characters and one answer of 280."""
    drawn, words = random.Random(0), WORDS.split()

    def text(length: int) -> str:
        return " ".join(drawn.choice(words) for _ in range(length))[:length].strip()

    with path.open("w") as file:
        for _ in range(count):
            turns = [("user", text(120)), ("assistant", text(280))]
            file.write(json.dumps({"messages": [{"role": role, "content": said} for role, said in turns]}) + "\n")


def timed(name: str, command: list[str], folder: Path) -> Timed:
    """Run a command to its end. Raises CalledProcessError, with what it said, where it fails."""
    environment = {**os.environ, "MLXTUNE_CACHE": str(folder / "cache"), "HF_HOME": str(folder / "hf")}
    began = time.perf_counter()
    with (folder / "said").open("w+") as said:
        process = subprocess.Popen(command, stdout=said, stderr=said, env=environment)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - began
        if status:
            said.seek(0)
            raise subprocess.CalledProcessError(os.waitstatus_to_exitcode(status), command, said.read()[-2000:])
    return Timed(name, seconds, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024))


def commands(folder: Path, model: str) -> dict[str, list[str]]:
    """Each side's command, by its name."""
    python, rows = sys.executable, folder / "data" / "train.jsonl"
    ours = [python, "-m", "mlxtune", "train", "--model", model, "--data", str(rows), "--max-steps", "1"]
    theirs = [python, "-m", "mlx_lm", "lora", "--model", model, "--train", "--data", str(rows.parent), "--iters", "1"]
    theirs += ["--val-batches", "1", "--num-layers", "2", "--adapter-path", str(folder / "adapter")]
    return {
        "mlxtune, first start": [*ours, "--out", str(folder / "one")],
        "mlxtune, second start": [*ours, "--out", str(folder / "two")],
        "mlx-lm, every start": theirs,
        "datasets.map, alone": [python, "-c", MAP, model, str(rows), str(folder / "hf")],
    }


def main() -> None:
    """Print one line for each side."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--model", default=str(files("mlxtune").joinpath("assets", "model")))
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "data").mkdir()
        chats(folder / "data" / "train.jsonl", given.rows)
        chats(folder / "data" / "valid.jsonl", 100)
        print(f"{given.rows:,} rows, {os.cpu_count()} cores\n")
        print(f"{'':<24}{'seconds':>9}{'rows/s':>9}{'peak MB':>9}")
        for name, command in commands(folder, given.model).items():
            found = timed(name, command, folder)
            rate, peak = given.rows / found.seconds, found.peak_bytes / 1e6
            print(f"{name:<24}{found.seconds:>9.1f}{rate:>9,.0f}{peak:>9.0f}", flush=True)


if __name__ == "__main__":
    main()

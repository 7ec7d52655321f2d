"""Kill a run, resume it, and compare its files with those of an unbroken run: every byte must be equal.

    scripts/kill_and_resume.py operations [--backend numpy] [--first 50] [--random 200] [--seed 0]
    scripts/kill_and_resume.py full-disk  [--backend numpy] [--first 50] [--random 50]
    scripts/kill_and_resume.py times      [--kills 20] [--seed 0] [train options]

operations: the run is killed with SIGKILL at a file operation (opening for writing, a write, of which half is done,
fsync, rename, mkdir, unlink, rmdir): at each of the first ones, and at random later ones. Every second time the
resumption is killed too, at a random operation, and resumed.

full-disk: from that operation on nothing more can be written, as on a disk without room. The command must end with exit
code 3 and one message, and go on once there is room.

times: the run is killed at random moments, again and again, in each of the cases below (fp32 and bf16, with gradient
accumulation, without clipping, with moments in 16 bits, LoRA with dropout; over several epochs, the frozen layers'
output kept where there are some), and validates on another interval.

The first two fork their runs from a process that has imported everything, so that one takes a second or less.
"""

import argparse
import builtins
import errno
import hashlib
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

CASES = {
    "fp32, last-n": ["--precision", "fp32", "--last-n", "2"],
    "fp32, last-n, no clipping": ["--precision", "fp32", "--last-n", "2", "--clip-norm", "none"],
    "bf16, last-n, accumulation": ["--precision", "bf16", "--last-n", "2", "--grad-accum", "3"],
    "bf16, last-n, moments in bf16": ["--precision", "bf16", "--last-n", "2", "--moments", "bf16"],
    "bf16, LoRA with dropout": ["--precision", "bf16", "--strategy", "lora", "--dropout", "0.1"],
    "bf16, last-n, sgd": ["--precision", "bf16", "--last-n", "2", "--optimizer", "sgd"],
    "fp32, last-n, sgd with momentum": [
        "--precision",
        "fp32",
        "--last-n",
        "2",
        "--optimizer",
        "sgd",
        "--momentum",
        "0.9",
    ],
    "fp16, full": ["--precision", "fp16", "--strategy", "full"],
}
STEPS_PER_RUN = 40
STEPS = ["--max-steps", str(STEPS_PER_RUN), "--save-every", "3", "--learning-rate", "1e-3", "--batch-size", "8"]
SHORT = "--max-steps 7 --save-every 2 --eval-every 3 --learning-rate 1e-3 --batch-size 2 --last-n 1 --precision fp32"
ROWS = 12
CALLS = ("rename", "replace", "mkdir", "unlink", "remove", "rmdir", "fsync", "truncate", "ftruncate", "symlink", "link")


# ---- file operations ----


class Operations:
    """Counts the file operations of this process, and does something at one of them: `at`, counted from 1."""

    def __init__(self, at: int, fault: Callable[[Callable[[], object] | None], None], log: Path) -> None:
        self.at, self.fault, self.log, self.number = at, fault, os.open(log, os.O_WRONLY | os.O_CREAT), 0
        self.write, self.open = os.write, io.open

    def note(self, what: str, half: Callable[[], object] | None = None) -> None:
        """An operation that is about to be done; half: does a part of it."""
        self.number += 1
        self.write(self.log, f"{what}\n".encode())
        if self.number >= self.at:
            self.fault(half)

    def install(self) -> None:
        """In place of what Python's own modules call."""
        for name in CALLS:
            setattr(os, name, self._noted(name, getattr(os, name)))
        of_os = os.open

        def opened(path: Any, flags: int, *rest: Any, **named: Any) -> int:
            if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) and not str(path).startswith("/dev/"):
                self.note(f"open {path}")
            return of_os(path, flags, *rest, **named)

        os.open = opened
        io.open = builtins.open = self._open  # type: ignore[assignment]

    def _noted(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*arguments: Any, **named: Any) -> Any:
            self.note(f"{name} {arguments[0]}")
            return call(*arguments, **named)

        return noted

    def _open(self, file: Any, mode: str = "r", buffering: int = -1, *text: Any, **named: Any) -> Any:
        if not set(mode) & set("wax+") or str(file).startswith("/dev/"):
            return self.open(file, mode, buffering, *text, **named)
        if not isinstance(file, int):
            self.note(f"open {file}")
        raw = _Raw(self, file, mode.replace("b", "").replace("t", ""))
        if buffering == 0:
            return raw
        buffered = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
        return buffered if "b" in mode else io.TextIOWrapper(buffered, *text, **named)


class _Raw(io.FileIO):
    """A file whose writes are noted."""

    def __init__(self, operations: Operations, file: Any, mode: str) -> None:
        super().__init__(file, mode)
        self.operations = operations

    def write(self, block: Any) -> int:
        view = memoryview(block).cast("B")
        self.operations.note(f"write {self.name}", lambda: super(_Raw, self).write(view[: len(view) // 2]))
        return super().write(view)


def die(half: Callable[[], object] | None) -> None:
    """As `kill -9` does, in the middle of a write."""
    if half is not None:
        half()
    os.kill(os.getpid(), signal.SIGKILL)


def full(half: Callable[[], object] | None) -> None:
    """As a disk without room does."""
    if half is not None:
        half()
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


NEVER = 10**9


class Runs:
    """Runs of one backend in a folder, forked from this process."""

    def __init__(self, folder: Path, backend: str) -> None:
        self.folder, self.backend, self.data = folder, backend, folder / "rows.jsonl"
        self.log, self.said = folder / "operations", folder / "said"
        rows = [{"prompt": f"A rhyme about {n}.", "completion": f"{n} is one more than {n - 1}."} for n in range(ROWS)]
        self.data.write_text("".join(json.dumps(row) + "\n" for row in rows))
        self.options = [*SHORT.split(), "--backend", backend, "--data", str(self.data)]

    def run(self, out: Path, at: int = NEVER, fault: Any = die) -> int:
        """Begin or resume the run; how it ended, negative for a signal."""
        self.log.unlink(missing_ok=True)
        process = os.fork()
        if process == 0:
            self._be_the_run(out, at, fault)
        return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])

    def _be_the_run(self, out: Path, at: int, fault: Any) -> None:
        said = os.open(self.said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(said, 1)
        os.dup2(said, 2)
        os.environ["MLXTUNE_CACHE"] = str(out.with_name("cache"))
        sys.argv = ["mlxtune", "train", *self.options, "--out", str(out)]
        Operations(at, fault, self.log).install()
        code = 70
        try:
            from mlxtune.cli.app import run_here

            run_here()
        except SystemExit as ended:
            code = int(ended.code or 0)
        finally:
            os.fsync = lambda _: None
            sys.stdout.flush()
            os._exit(code)

    def operations(self) -> list[str]:
        """Of the run before."""
        return self.log.read_text().splitlines()

    def finish(self, out: Path, why: str) -> None:
        if self.run(out):
            raise SystemExit(f"{self.backend}, {why}: the run does not go on:\n{self.said.read_text()}")


def warm_up() -> None:
    """Import what a run needs. No backend computes here, whose threads would not survive a fork."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    from mlxtune.backends import blas, choose

    blas.configure()
    sys.modules["torch"] = None  # type: ignore[assignment]
    import mlxtune.backends.numpy.learner
    import mlxtune.cli.app
    import mlxtune.report.console
    import mlxtune.run.session
    from mlxtune.models import hub, tokenizer

    if choose.has_mlx():
        import mlxtune.backends.mlx.learner  # noqa: F401
    tokenizer.load(hub.BUILT_IN)


def places(total: int, arguments: argparse.Namespace) -> Iterator[int]:
    """The operations at which a run is ended: the first ones, then a random sample."""
    later = range(arguments.first + 1, total + 1)
    generator = random.Random(arguments.seed)
    yield from range(1, min(arguments.first, total) + 1)
    yield from sorted(generator.choices(later, k=arguments.random) if later else [])


def at_operations(arguments: argparse.Namespace, fault: Any) -> None:
    """Both forms: killed, or without room."""
    warm_up()
    generator, ended = random.Random(arguments.seed), 0
    for backend in arguments.backend or backends():
        with tempfile.TemporaryDirectory() as folder:
            runs = Runs(Path(folder), backend)
            whole = Path(folder, "whole", "run")
            whole.parent.mkdir()
            runs.finish(whole, "unbroken")
            total = len(runs.operations())
            for place in places(total, arguments):
                broken = Path(folder, "broken", "run")
                broken.parent.mkdir()
                whole_before, why = end_at(runs, broken, place, fault)
                ended += not whole_before
                if not whole_before and place % 2 == 0:
                    runs.run(broken, generator.randint(1, total), fault)
                runs.finish(broken, why)
                if result(whole) != result(broken):
                    raise SystemExit(f"{backend}, {why}: DIFFERENT")
                shutil.rmtree(broken.parent)
            print(f"{backend}: of {total:,} file operations; {ended} runs so far resumed to the same bytes", flush=True)
    print(f"all equal after {ended} runs that were {'killed' if fault is die else 'out of room'}")


def end_at(runs: Runs, out: Path, place: int, fault: Any) -> tuple[bool, str]:
    """A run that ends at an operation, as it should. Whether it came to its end before; where that was, in words."""
    code = runs.run(out, place, fault)
    why = f"operation {place} ({runs.operations()[min(place, len(runs.operations())) - 1]})"
    said = runs.said.read_text()
    expected = (-signal.SIGKILL, 0) if fault is die else (3, 0)  # 0: it ended before, as threads differ
    if code not in expected or "Traceback" in said or said.count("No space left on device") > 1:
        raise SystemExit(f"{runs.backend}, {why}: ended with {code}:\n{said}")
    return code == 0, why


def backends() -> list[str]:
    from mlxtune.backends import choose

    return ["numpy", "mlx"] if choose.has_mlx() else ["numpy"]


def result(run: Path) -> dict[str, Any]:
    """What must not depend on how the run got there."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = [(line["step"], line["loss"]) for line in lines if line["event"] in ("step", "eval")]
    return {
        "losses": losses,
        "files": {path.name for path in run.iterdir()} | {path.name for path in (run / "checkpoints").iterdir()},
        "adapter": hashlib.sha256((run / "adapter" / "adapters.safetensors").read_bytes()).hexdigest(),
        **hashes(run),
    }


def hashes(run: Path) -> dict[str, str]:
    """sha256 of the files of the last checkpoint."""
    last = max(path for path in (run / "checkpoints").iterdir() if path.name.isdigit())
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(last.glob("*.safetensors"))}


# ---- times ----


def command(out: Path, options: list[str]) -> list[str]:
    """One training run."""
    return [sys.executable, "-m", "mlxtune", "train", *STEPS, *options, "--out", str(out)]


def kill_at(arguments: list[str], log: Path, steps: int, delay: float) -> bool:
    """Start the run and kill it `delay` seconds after it has logged `steps` more lines; whether it still ran."""
    target = lines(log) + steps
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    while process.poll() is None and lines(log) < target:
        time.sleep(0.01)
    time.sleep(delay)
    still_running = process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return still_running


def lines(log: Path) -> int:
    """How many events a run has logged."""
    return log.read_bytes().count(b"\n") if log.exists() else 0


def finish(arguments: list[str]) -> None:
    """Run or resume to the end."""
    found = subprocess.run(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False)
    if found.returncode:
        raise SystemExit(found.stderr.decode())


def at_times(arguments: argparse.Namespace, options: list[str]) -> None:
    """All cases."""
    generator, kills = random.Random(arguments.seed), 0
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MLXTUNE_CACHE"] = str(Path(folder, "cache"))  # the frozen layers' output is made in the first run
        for number, (name, case) in enumerate(CASES.items()):
            whole, broken = Path(folder, f"whole-{number}"), Path(folder, f"broken-{number}")
            finish(command(whole, [*case, *options]))
            again = command(broken, [*case, *options, "--eval-every", "7"])
            share = arguments.kills * (number + 1) // len(CASES) - kills
            done = 0
            while done < share:
                done += kill_at(again, broken / "metrics.jsonl", generator.randint(0, 12), generator.uniform(0, 0.3))
                if len(list(broken.glob(f"checkpoints/{STEPS_PER_RUN:06d}"))):
                    shutil.rmtree(broken)  # it came to its end: begin anew
            finish(again)
            if hashes(whole) != hashes(broken):
                raise SystemExit(f"{name}: DIFFERENT after {done} kills")
            print(f"{name}: killed {done} times and resumed to the same bytes", flush=True)
            kills += done
    print(f"all equal after {kills} kills")


def main() -> None:
    """Parse, and do one of the three."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    forms = parser.add_subparsers(dest="form", required=True)
    for form, sample in (("operations", 200), ("full-disk", 50)):
        each = forms.add_parser(form)
        each.add_argument("--backend", action="append", choices=["numpy", "mlx"])
        each.add_argument("--first", type=int, default=50)
        each.add_argument("--random", type=int, default=sample)
        each.add_argument("--seed", type=int, default=0)
    times = forms.add_parser("times")
    times.add_argument("--kills", type=int, default=20)
    times.add_argument("--seed", type=int, default=0)
    arguments, options = parser.parse_known_args()
    if arguments.form == "times":
        at_times(arguments, options)
    else:
        at_operations(arguments, die if arguments.form == "operations" else full)


if __name__ == "__main__":
    main()

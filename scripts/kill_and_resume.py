"""Kill a run at random moments, resume it each time, and compare its files with those of an unbroken run.

    scripts/kill_and_resume.py [--kills 20] [--seed 0] [train options]

For each case (fp32 and bf16, with gradient accumulation, without clipping, with moments in 16 bits, LoRA with dropout;
over several epochs, the frozen layers' output kept where there are some) the unbroken run is
made once; then a run of the same settings is killed with SIGKILL at random moments, again and again, and resumed to its
end, with validation on another interval. Every byte of the last weights.safetensors and optimizer.safetensors must
be equal. Ends with 0 when they are, and says how many kills there were.
"""

import argparse
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CASES = {
    "fp32, last-n": ["--precision", "fp32", "--last-n", "2"],
    "fp32, last-n, no clipping": ["--precision", "fp32", "--last-n", "2", "--clip-norm", "none"],
    "bf16, last-n, accumulation": ["--precision", "bf16", "--last-n", "2", "--grad-accum", "3"],
    "bf16, last-n, moments in bf16": ["--precision", "bf16", "--last-n", "2", "--moments", "bf16"],
    "bf16, LoRA with dropout": ["--precision", "bf16", "--strategy", "lora", "--dropout", "0.1"],
    "fp16, full": ["--precision", "fp16", "--strategy", "full"],
}
STEPS_PER_RUN = 40
STEPS = ["--max-steps", str(STEPS_PER_RUN), "--save-every", "3", "--learning-rate", "1e-3", "--batch-size", "8"]


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


def hashes(run: Path) -> dict[str, str]:
    """sha256 of the files of the last checkpoint."""
    last = max(path for path in (run / "checkpoints").iterdir() if path.name.isdigit())
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(last.glob("*.safetensors"))}


def main() -> None:
    """Run all cases."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    arguments, options = parser.parse_known_args()
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


def finish(arguments: list[str]) -> None:
    """Run or resume to the end."""
    found = subprocess.run(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False)
    if found.returncode:
        raise SystemExit(found.stderr.decode())


if __name__ == "__main__":
    main()

"""The README's picture is drawn from a run's own log."""

import subprocess
import sys
from contextlib import closing
from pathlib import Path

from mlxtune.report.log import Log
from tests.support import events as told
from tests.support.checkout import ROOT


def test_the_picture_shows_the_run_that_its_log_tells(tmp_path: Path):
    with closing(Log(tmp_path / "metrics.jsonl")) as log:
        for event in told.run(steps=300):
            log(event)
    target = tmp_path / "docs" / "panel.svg"
    command = [sys.executable, "scripts/panel.py", str(tmp_path / "metrics.jsonl"), str(target)]
    subprocess.run(command, cwd=ROOT, env={"PYTHONPATH": str(ROOT)}, check=True)
    drawn = target.read_text(encoding="utf-8").replace("&#160;", " ")
    for said in ("step 180 of 300", "1,397,796,864", "◆", "validation"):
        assert said in drawn

"""Draw the README's picture of the panel: replay a run's log and write what the screen showed half way as SVG.

    python scripts/panel.py RUN/metrics.jsonl docs/panel.svg

The numbers in the picture are the run's own.
"""

import io
import re
import sys
from pathlib import Path

from rich.console import Console

from mlxtune.events import Start, Step
from mlxtune.report.frame import frame
from mlxtune.report.log import replay
from mlxtune.report.panel import opening
from mlxtune.report.tally import Tally

WIDTH, HEIGHT, PART = 100, 24, 0.6  # columns, rows of the live picture, share of the steps that it shows


def picture(log: Path) -> str:
    """The opening panel and the live picture under it, as SVG."""
    screen, tally = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True), Tally()
    for event in replay(log):
        if isinstance(event, Start) and tally.start is None:
            screen.print(opening(event, WIDTH))
        tally.take(event)
        if isinstance(event, Step) and tally.part >= PART:
            break
    screen.print(frame(tally, WIDTH, HEIGHT))
    svg = screen.export_svg(title="mlxtune train", unique_id="panel")
    return re.sub(
        r"@font-face \{.*?\}", "", svg, flags=re.DOTALL
    )  # a picture that fetches nothing: any fixed font does


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    target = Path(sys.argv[2])
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(picture(Path(sys.argv[1])), encoding="utf-8")

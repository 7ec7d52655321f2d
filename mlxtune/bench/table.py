"""A comparison as a table to read, whose lines are Markdown too, and as a part of a JSON document."""

import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from typing import Any

from mlxtune.bench.cases import AS_IT_IS, EQUAL, MLXTUNE, TECHNIQUES
from mlxtune.bench.compare import Comparison, Settings
from mlxtune.bench.measures import COMPARED_STEPS, Spread, loss_difference, measures, ratios, spread
from mlxtune.bench.sides.spec import RATE, Result
from mlxtune.format import UNKNOWN, rate

PACKAGES = ("mlxtune", "mlx", "mlx-lm", "numpy")
LEGEND = f"""\
Each training is a process of its own; both have the same weights, the same rows in the same batches and order, AdamW at
{rate(RATE)} with bias correction, no clipping. {EQUAL} trains the same parameters ({AS_IT_IS}: its head and norm stay
frozen). The batches are those that it makes of chat rows, which it does not sort by length; after each row it learns
token 0 of the padding, and so does mlxtune here. Times are from after the imports on, tokens/s are of the whole time.
Ratios are mlxtune's part of {EQUAL}'s: the middle of the repeats (least to most). GFLOP are those of the matrix
products of a step after the first epoch; their rate is compared with that of one product of 1,024^3."""
TECHNIQUES_LEGEND = """\
Each training is a process of its own, with the techniques forced that its line names; "+" adds one to the line above.
The self-check at the start runs in all of them. Times are from after the imports on, tokens/s are of the whole time."""


def lines(comparison: Comparison) -> Iterator[str]:
    """The sides of a case beside each other, and the ratios of the first to the others."""
    case, results = comparison
    others = [name for name in results if name != MLXTUNE]
    yield from (f"## {case.words} ({case.name})", "")
    header = ["", *results, *(f"{MLXTUNE} / {name}" for name in others)]
    rows = []
    for measure in measures(case):
        cells = [measure.show(spread([measure.of(r) for r in side]).middle) for side in results.values()]
        found = [_ratio(ratios(measure, results[MLXTUNE], results[name])) for name in others]
        rows.append([measure.words, *cells, *found])
    differs = [_difference(name, results) for name in results]
    rows.append([f"loss differs by, {COMPARED_STEPS} steps", *differs, *("" for _ in others)])
    yield from aligned([header, *rows])
    used = [TECHNIQUES.get(name, name) for name in results[MLXTUNE][0].used]
    yield from ("", f"{MLXTUNE} had: {', '.join(used)}.")


def technique_lines(comparison: Comparison) -> Iterator[str]:
    """The variations below each other; ratios to the first, which has no technique."""
    case, results = comparison
    shown = ("real_tokens_per_second", "whole_seconds", f"epoch_{case.epochs}_seconds", "peak_bytes", "padding_waste")
    chosen = [measure for measure in measures(case) if measure.key in (*shown, "resident_bytes", "step_gflop")]
    first, whole = next(iter(results.values())), next(m for m in chosen if m.key == "whole_seconds")
    rows = [["", *(measure.words for measure in chosen), "whole / none", "loss differs by"]]
    for words, side in results.items():
        cells = [measure.show(spread([measure.of(r) for r in side]).middle) for measure in chosen]
        rows.append([words, *cells, _ratio(ratios(whole, side, first)), f"{loss_difference(side, first):.1e}"])
    yield from (f"## Techniques: {case.words} ({case.name})", "")
    yield from aligned(rows)


def aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """A Markdown table whose columns are even in plain text: words to the left, numbers to the right.

    >>> print(*aligned([["", "a"], ["one", "1.5"]]), sep=chr(10))
    |     |   a |
    |-----|----:|
    | one | 1.5 |
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for place, row in enumerate(rows):
        cells = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        yield f"| {' | '.join([row[0].ljust(widths[0]), *cells])} |"
        if place == 0:
            yield f"|{'-' * (widths[0] + 2)}|{'|'.join('-' * (width + 1) + ':' for width in widths[1:])}|"


def _ratio(found: Spread | None) -> str:
    if found is None:
        return ""
    if found.least == found.most:
        return f"{found.middle:.2f}"
    return f"{found.middle:.2f} ({found.least:.2f} to {found.most:.2f})"


def _difference(name: str, results: Mapping[str, list[Result]]) -> str:
    return f"{loss_difference(results[MLXTUNE], results[name]):.1e}" if name == EQUAL else UNKNOWN


def machine(comparisons: Sequence[Comparison], settings: Settings) -> dict[str, Any]:
    """What was measured on and with."""
    results = [result for each in comparisons for side in each.results.values() for result in side]
    return {
        "device": results[0].device,
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "blas": results[0].blas,
        "matrix_gflops": spread([result.matrix_flops / 1e9 for result in results])._asdict(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in PACKAGES},
        "settings": settings._asdict(),
    }


def machine_lines(found: Mapping[str, Any]) -> Iterator[str]:
    """The same, to read."""
    settings, matrix = found["settings"], found["matrix_gflops"]
    threads = f"{settings['threads']} thread{'' if settings['threads'] == 1 else 's'} of {found['cores']} cores"
    yield f"Machine: {found['device']}, {threads}, {found['system']}. BLAS: {found['blas']}."
    yield (
        f"Matrix rate, 1,024^3 in {settings['precision']}: {matrix['middle']:,.0f} GFLOP/s"
        f" ({matrix['least']:,.0f} to {matrix['most']:,.0f})."
    )
    yield f"Python {found['python']}, {', '.join(f'{name} {number}' for name, number in found['versions'].items())}."


def as_json(comparison: Comparison) -> dict[str, Any]:
    """Every result, and what the table shows of them."""
    case, results = comparison
    found = measures(case)
    sides = {
        name: {
            "measures": {measure.key: spread([measure.of(r) for r in side])._asdict() for measure in found},
            "runs": [result._asdict() for result in side],
        }
        for name, side in results.items()
    }
    document = {"case": case._asdict(), "sides": sides}
    if MLXTUNE not in results:
        return document
    others = [name for name in results if name != MLXTUNE]
    compared = {name: {m.key: ratios(m, results[MLXTUNE], results[name]) for m in found} for name in others}
    return document | {
        "ratios": {name: {key: s and s._asdict() for key, s in each.items()} for name, each in compared.items()},
        "largest_loss_difference": loss_difference(results[MLXTUNE], results[EQUAL]),
        "compared_steps": min(COMPARED_STEPS, len(results[EQUAL][0].losses)),
    }

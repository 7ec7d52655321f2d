"""The kinds of input: what is written into an empty folder, and what of the program reads it, as its verbs do.

A kind's `read` raises MlxtuneError, or what it reads is taken. Every reader is called as the command line calls it, in
this process, without the weights of a model.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from random import Random
from typing import NamedTuple

from fuzzing import adapters, models, rows, runs, settings, tokenizers


class Kind(NamedTuple):
    """share: of a thousand inputs, how many are of this kind; what takes longer has a smaller share."""

    write: Callable[[Random, Path], None]
    read: Callable[[Path], object]
    share: int


KINDS: Mapping[str, Kind] = {
    "rows": Kind(rows.write_rows, rows.read_rows, 260),
    "parquet": Kind(rows.write_table, rows.read_rows, 30),
    "recipe": Kind(settings.write_recipe, settings.read_recipe, 140),
    "set": Kind(settings.write_change, settings.read_change, 60),
    "mlx-lm": Kind(settings.write_mlx_lm, settings.read_mlx_lm, 80),
    "path": Kind(settings.write_path, settings.read_path, 20),
    "config": Kind(models.write_config, models.read_config, 120),
    "model": Kind(models.write_model, models.read_model, 10),
    "header": Kind(models.write_header, models.read_weights, 80),
    "index": Kind(models.write_index, models.read_weights, 40),
    "tokenizer": Kind(tokenizers.write_tokenizer, tokenizers.read_tokenizer, 30),
    "template": Kind(tokenizers.write_template, tokenizers.read_template, 40),
    "adapter": Kind(adapters.write_adapter, adapters.read_adapter, 60),
    "run": Kind(runs.write_run, runs.read_run, 40),
}

"""The Python front door: a run, its result, and a model that is tried, as the command line does them.

What a function raises is an MlxtuneError, which says what was expected, what was found, where, and what to do.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mlxtune import inference, speech
from mlxtune.backends.base import BackendSettings, Sampling
from mlxtune.data.settings import DataSettings
from mlxtune.errors import BadRun
from mlxtune.events import End, Event
from mlxtune.inference import Score
from mlxtune.recipe.recipe import Recipe, build
from mlxtune.report.base import Report
from mlxtune.report.log import last_end, replay
from mlxtune.run import folder as run_folder
from mlxtune.run import identity, session
from mlxtune.storage.documents import user_path


def train(
    recipe: Recipe | Mapping[str, Any] | None = None, reports: Sequence[Report] = (), *, resume: str = "auto"
) -> End:
    """Run a recipe, or `section.key` settings, to its end; the end says how it ended and where the adapter is.

    reports: each is called with every event and closed by whoever made it. resume: "auto" goes on with the run in
    `run.out` if there is one, "never" refuses it. Raises MlxtuneError for bad input, before anything is written.
    """
    return session.start(recipe if isinstance(recipe, Recipe) else build({}, recipe or {}), reports, resume)


def evaluate(
    model: str | None = None,
    data: str | DataSettings | None = None,
    *,
    adapter: str | Path | None = None,
    backend: BackendSettings | None = None,
) -> Score:
    """Loss (nats a supervised token) and perplexity of a model on the rows of a data set.

    model: alias, hub id or folder; None is the built-in tiny model. data: file, folder, pattern, hub data set or URL;
    None is the built-in rows. adapter: RUN/adapter, or an adapter of mlx-lm.
    """
    rows = data if isinstance(data, DataSettings) else DataSettings(path=data)
    return inference.score(model, Path(adapter) if adapter else None, rows, backend or BackendSettings())


def generate(
    prompt: str,
    model: str | None = None,
    *,
    adapter: str | Path | None = None,
    sampling: Sampling | None = None,
    backend: BackendSettings | None = None,
) -> str:
    """The text that a model writes after a prompt: the assistant's turn where its tokenizer has a chat template.

    sampling: how tokens are chosen, by default the likeliest each time, 256 at most.
    """
    loaded = inference.load(model, Path(adapter) if adapter else None, backend or BackendSettings())
    return "".join(speech.complete(loaded, prompt, sampling or Sampling(256, 0.0, 1.0, 0)))


class Run(NamedTuple):
    """A run folder. recipe: every setting with its value. end: None where the run was killed, or has not ended."""

    folder: Path
    recipe: Recipe
    end: End | None

    @property
    def adapter(self) -> Path | None:
        """The folder of what is offered: the best of what was validated, else the last weights."""
        return self.folder / Path(self.end.adapter).name if self.end and self.end.adapter else None

    def events(self) -> Iterator[Event]:
        """All that was logged, in order. Raises BadRun at a line that is damaged."""
        return replay(self.folder / run_folder.METRICS)


def load_run(folder: str | Path) -> Run:
    """A run as its folder has it. Raises BadRun where there is none, or a file of it is damaged."""
    place = user_path(folder, BadRun)
    recipe = build(identity.saved_recipe(place), {}, str(place))
    return Run(place, recipe, last_end(place / run_folder.METRICS))

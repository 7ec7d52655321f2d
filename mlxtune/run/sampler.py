"""The samples of a run, taken when they are due: before the first step, every so many, and after the last."""

from collections.abc import Callable
from time import perf_counter

from mlxtune.backends.base import Learner
from mlxtune.events import Event, Sample
from mlxtune.progress import Progress
from mlxtune.run.prepare import Prepared
from mlxtune.speech import Loaded, answer


class Sampler:
    """Asks the learner as it is. A step whose samples were taken is not asked again, in a resumed run either."""

    def __init__(self, prepared: Prepared, learner: Learner, progress: Progress, tell: Callable[[Event], None]) -> None:
        self.settings, self.asked = prepared.recipe.sample, prepared.questions.asked
        self.sampling = self.settings.sampling(prepared.recipe.train.seed)
        self.loaded = Loaded(learner, prepared.questions.tokenizer, prepared.questions.special)
        self.last, self.progress, self.tell = prepared.pace.total, progress, tell

    def look(self) -> None:
        """Take the samples of this step, if they are due."""
        step = self.progress.step
        if not self.settings.is_due(step, self.last) or self.progress.sampled_step == step:
            return
        for text, prompt in self.asked:
            began = perf_counter()
            said = "".join(answer(self.loaded, prompt, self.sampling))
            seconds = perf_counter() - began
            self.progress.seconds += seconds
            self.tell(Sample(step, text, said, seconds))
        self.progress.sampled_step = step

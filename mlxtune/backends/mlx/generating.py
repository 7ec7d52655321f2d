"""Text from a model of mlx-lm, which does the generating."""

from collections.abc import Iterator, Sequence, Set

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.generate import generate_step
from mlx_lm.sample_utils import make_sampler

from mlxtune.backends.base import Sampling


def generate(model: nn.Module, prompt: Sequence[int], sampling: Sampling, stop: Set[int]) -> Iterator[int]:
    """The tokens that follow the prompt, up to and without the first of `stop`. MLX's random state is its own."""
    mx.random.seed(sampling.seed)
    sampler = make_sampler(temp=sampling.temperature, top_p=sampling.top_p)
    steps = generate_step(mx.array(list(prompt)), model, max_tokens=sampling.max_tokens, sampler=sampler)
    for token, _ in steps:
        if int(token) in stop:
            return
        yield int(token)

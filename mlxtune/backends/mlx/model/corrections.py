"""What config.json asks for and mlx-lm's code for the family does not compute: put right in the model, or refused.

A model that was put right computes what PyTorch does, and not what `mlx_lm.generate` does: each correction is said.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import mlx.core as mx
import mlx.nn as nn

from mlxtune.backends.mlx.model import activations, reads, rope
from mlxtune.backends.mlx.model import tied_heads as heads
from mlxtune.backends.mlx.model.sliding_windows import slide
from mlxtune.errors import BadModel, MlxtuneError, raise_all
from mlxtune.models import declared
from mlxtune.models import rope as rope_math


class Family(NamedTuple):
    """A model's family, as transformers and mlx-lm have it."""

    folder: Path
    config: Any  # transformers'
    args_class: type | None  # mlx-lm's, of the language model; None where a multimodal model has it inside

    @property
    def text(self) -> Any:
        """The language model's part of a multimodal config."""
        return self.config.get_text_config()

    @property
    def slides(self) -> bool:
        """Whether mlx-lm has the family's windows. It reads Mistral as a Llama, of which some layers may have one."""
        if self.args_class is None:
            return True
        of_its_own = self.args_class.__module__.endswith(f".{self.text.model_type}")
        return of_its_own and "sliding_window" in self.takes and bool(declared.value(self.text, "layer_types"))

    @property
    def takes(self) -> frozenset[str]:
        """The keys that mlx-lm's code reads."""
        return reads.of(self.args_class) if self.args_class else frozenset()

    def shapes(self, raw: Mapping[str, Any]) -> list[str]:
        """Keys that mlx-lm does not read and that the tensors' names and shapes depend on."""
        text = raw.get("text_config") or raw
        unread = reads.unread(text, self.text, self.args_class) if self.args_class else set()
        return sorted(unread & declared.SHAPES)

    def check(self, raw: Mapping[str, Any]) -> None:
        """Refuse what neither mlx-lm nor we compute, by the names of the keys."""
        path, text = self.folder / "config.json", raw.get("text_config") or raw
        faults: list[MlxtuneError] = [*_rope_faults(path, text)]
        if self.args_class:
            faults += reads.faults(path, text, self.text, self.args_class)
            faults += self._pattern_fault(path)
        raise_all(faults)

    def _pattern_fault(self, path: Path) -> Iterator[MlxtuneError]:
        """Some of mlx-lm's code lets every nth layer see all, where transformers has a list of layers."""
        kinds = declared.value(self.text, "layer_types") or ()
        if not self.slides or "layer_types" in self.takes or "sliding_attention" not in kinds:
            return
        if "sliding_window_pattern" not in self.takes or declared.pattern(self.text) is None:
            found = ", ".join(kind.removesuffix("_attention") for kind in kinds)
            expected = "layers of which every nth sees the whole text, all others a window"
            yield BadModel(f"{path}: layer_types", expected=expected, found=found, remedy=reads.REMEDY)

    def head(self, model: nn.Module, weights: dict[str, mx.array]) -> tuple[str, ...]:
        """Tie or untie the head as config.json says it. weights: the file's, out of which a tied head is taken."""
        tied = bool(declared.value(self.config, "tie_word_embeddings"))
        if not tied and heads.HEAD not in weights:
            return ()
        changed = heads.fit(model, tied=tied)
        if tied and changed:
            weights.pop(heads.HEAD, None)
        words = "its head, which is its embedding" if tied else "its head, which is not its embedding"
        return (words,) if changed else ()

    def passes(self, model: nn.Module) -> tuple[str, ...]:
        """Put the passes right. What was corrected, in words; BadModel where that is not known how."""
        text, made = self.text, []
        windows = declared.windows(text)
        if any(windows) and not self.slides:
            slide(model, windows)
            made.append(f"its sliding window of {text.sliding_window:,} tokens, which longer texts need")
        if self._has_plain_rope and rope.put_in(model, _ropes(text)):
            made.append("its rotary embedding")
        if _other_activation(text):
            self._activate(model)
            made.append(f"its activation {declared.activation(text)}")
        return tuple(made)

    @property
    def _has_plain_rope(self) -> bool:
        """Hunyuan has a "dynamic" RoPE of its own, which mlx-lm has."""
        return bool(declared.value(self.text, "rope_parameters")) and "hunyuan" not in self.text.model_type

    def _activate(self, model: nn.Module) -> None:
        name = str(declared.activation(self.text))
        if not activations.put_in(model, name):
            known = ", ".join(activations.ACTIVATIONS)
            expected = f"the family's own activation, or one of {known} in a plain feed-forward"
            path = self.folder / "config.json"
            raise BadModel(f"{path}: hidden_act", expected=expected, found=name, remedy=reads.REMEDY)


def _rope_faults(path: Path, text: Mapping[str, Any]) -> Iterator[MlxtuneError]:
    parameters = rope_math.of_config(text)
    for settings in parameters.values() if declared.is_by_kind(parameters) else [parameters]:
        if isinstance(settings, Mapping) and rope_math.kind(settings) in rope_math.NEEDED:
            for fault in rope_math.faults(settings):
                remedy = "Write into config.json what the model was trained with."
                yield BadModel(f"{path}: rope_scaling", expected="a complete RoPE", found=fault, remedy=remedy)


def _ropes(text: Any) -> list[rope_math.Rope]:
    head_dim, context = declared.head_dim(text), declared.value(text, "max_position_embeddings") or 0
    return [rope_math.read(parameters, head_dim, context) for parameters in declared.rope_parameters(text)]


def _other_activation(text: Any) -> bool:
    default = declared.activation(type(text)())
    return activations.differs(text.model_type, declared.activation(text), default)


# Arrays of mlx-lm's modules that are no parameters: PyTorch has them as buffers.
BUFFERS = {"XieLU": ("beta", "eps")}


def hold_buffers(model: nn.Module) -> None:
    """Take what must never train out of the parameters; the modules still have it."""
    for _, module in model.named_modules():
        for name in BUFFERS.get(type(module).__name__, ()):
            object.__setattr__(module, name, module.pop(name))


def scale_embedding(model: nn.Module, precision: str) -> None:
    """mlx-lm rounds Gemma 3's factor of the embedding to bfloat16, as transformers does in bfloat16 alone."""
    inside = getattr(model, "language_model", model)
    if precision == "bf16" or not type(inside).__module__.endswith("gemma3_text"):
        return
    embedding = inside.model.embed_tokens
    factor = embedding.weight.shape[1] ** 0.5
    rounded = float(mx.array(factor, mx.bfloat16).item())  # type: ignore[arg-type]  # a real scalar
    if rounded != factor:
        own = type(embedding)
        call = {"__call__": lambda self, tokens: own.__call__(self, tokens) * (factor / rounded)}
        embedding.__class__ = type(own.__name__, (own,), {**call, "__module__": own.__module__})

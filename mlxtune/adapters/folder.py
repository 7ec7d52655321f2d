"""The folder that an adapter is in: mlx-lm's format, so that `mlx_lm.generate --adapter-path` loads it.

adapters.safetensors holds the tensors by the model's own names, adapter_config.json says what they are: for a kind of
adapter the rank, scale, dropout and the names of the modules; for whole parameters fine_tune_type "full". One thing
mlx-lm does not know: a head that was untied, which it refuses by its name. Under "mlxtune" are the step, the losses,
and the digests that an adapter is checked against when it is read.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from mlxtune.adapters.adapter import FULL, KINDS, Adapter
from mlxtune.adapters.kind import Settings
from mlxtune.errors import BadModel
from mlxtune.storage import documents
from mlxtune.storage.documents import read_object, user_path
from mlxtune.storage.files import Tensor, beside, fill_folder, place_folder, sha256, write_json, write_tensors
from mlxtune.storage.sealed import KEY, digest

WEIGHTS, CONFIG = "adapters.safetensors", "adapter_config.json"
AS_WRITTEN = ConfigDict(extra="ignore", strict=True, allow_inf_nan=False)


class Saved(NamedTuple):
    """A folder with an adapter of ours or of mlx-lm's."""

    folder: Path
    kind: str  # of `KINDS`, FULL, or one that only mlx-lm knows
    settings: Settings | None  # of a kind of `KINDS`
    untied_head: bool = False  # it has a head that the base model ties
    end_of_turn: str | None = None  # what --end-of-turn named when it was trained


class Written(NamedTuple):
    """What adapter_config.json says of what trained. layers: prefixes of the model's parameters, layer by layer."""

    adapters: Sequence[Adapter]  # none where whole parameters trained
    layers: tuple[str, ...]
    first_layer: int  # with anything that trains

    def document(self, about: dict[str, Any]) -> dict[str, Any]:
        """The file's content. num_layers counts from the end, as in mlx-lm. about: under "mlxtune"."""
        common = {"num_layers": len(self.layers) - self.first_layer, "mlxtune": about}
        if not self.adapters:
            return {"fine_tune_type": FULL, **common}
        first = self.adapters[0]
        keys = sorted({self._inside_layer(adapter.module) for adapter in self.adapters})
        parameters = {**first.settings._asdict(), "keys": keys}
        return {"fine_tune_type": first.kind, "lora_parameters": parameters, **common}

    def _inside_layer(self, module: str) -> str:
        return next(module.removeprefix(layer) for layer in self.layers if module.startswith(layer))


def write(folder: Path, weights: Iterable[Tensor], document: dict[str, Any]) -> None:
    """Write an adapter beside the folder, whose place it takes with `settle`."""

    def files(partial: Path) -> None:
        write_tensors(partial / WEIGHTS, weights)
        write_json(partial / CONFIG, document)

    fill_folder(folder, files)


def settle(folder: Path) -> None:
    """Add the digests, wait for the disk and put what `write` wrote in the folder's place. A thread may do it."""
    place_folder(folder, _seal)


def _seal(partial: Path) -> None:
    document = read_object(partial / CONFIG, BadModel)
    document["mlxtune"]["sha256"] = sha256(partial / WEIGHTS)
    document["mlxtune"][KEY] = _digest(document)
    write_json(partial / CONFIG, document)


def _digest(document: dict[str, Any]) -> str:
    return digest({**document, "mlxtune": {name: v for name, v in document["mlxtune"].items() if name != KEY}})


def find(folder: Path) -> Saved:
    """An adapter of ours or of mlx-lm's. Raises BadModel where the folder holds none, or a damaged one of ours."""
    remedy, folder = "Name the folder RUN/adapter.", user_path(folder, BadModel, "adapter")
    if not folder.exists() and beside(folder, "old").is_dir():
        folder = beside(folder, "old")  # a run was killed between the two renames that put another in its place
    missing = [name for name in (CONFIG, WEIGHTS) if not (folder / name).is_file()]
    if missing:
        raise BadModel(str(folder), expected=f"{CONFIG} and {WEIGHTS}", found=f"no {missing[0]}", remedy=remedy)
    document = read_object(folder / CONFIG, BadModel)
    found = _read(folder, document)
    if isinstance(about := document.get("mlxtune"), dict) and KEY in about:
        _check_sealed(folder, document)
    return found


class _Parameters(BaseModel, frozen=True):
    """lora_parameters, which mlx-lm has for every kind."""

    model_config = AS_WRITTEN

    rank: Annotated[int, Field(ge=1, le=100_000)]
    scale: Annotated[float, Field(ge=-1e9, le=1e9)]
    dropout: Annotated[float, Field(ge=0, lt=1)]
    keys: list[str] | None = None


class _Config(BaseModel, frozen=True):
    """adapter_config.json, as far as it is read."""

    model_config = AS_WRITTEN

    fine_tune_type: str = "lora"
    num_layers: Annotated[int, Field(ge=-1, le=100_000)]
    lora_parameters: dict[str, Any] | None = None
    mlxtune: dict[str, Any] | None = None


def _read(folder: Path, document: dict[str, Any]) -> Saved:
    """Raises BadModel that names the key of each bad value."""
    config = documents.check(document, _Config, folder / CONFIG, BadModel)
    about, settings = config.mlxtune or {}, None
    if config.fine_tune_type in KINDS:
        where = f"{folder / CONFIG}: lora_parameters"
        given = documents.check(config.lora_parameters or {}, _Parameters, where, BadModel)
        settings = Settings(given.rank, given.scale, given.dropout)
    named = about.get("end_of_turn")
    end_of_turn = named if isinstance(named, str) else None
    return Saved(folder, config.fine_tune_type, settings, about.get("untied_head") is True, end_of_turn)


def _check_sealed(folder: Path, document: dict[str, Any]) -> None:
    """Refuse an adapter that is not as the run wrote it."""
    about, remedy = document["mlxtune"], "The adapter is damaged: copy it again from where it came from."
    if about[KEY] != (found := _digest(document)):
        remedy += f"\nIf you changed {CONFIG} on purpose, remove `{KEY}` from its `mlxtune`."
        raise BadModel(str(folder / CONFIG), expected="the file as it was written", found=found, remedy=remedy)
    if about.get("sha256") != (found := sha256(folder / WEIGHTS)):
        raise BadModel(str(folder / WEIGHTS), expected=f"sha256 {about.get('sha256')}", found=found, remedy=remedy)

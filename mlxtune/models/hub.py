"""From the name of a model to its folder: an alias, a hub id, a local folder, or the built-in model.

From the hub come config, tokenizer and safetensors of the repository's root, and nothing else: no pickle, no code, no
second copy in another format. huggingface_hub does the fetching, so HF_HOME, HF_TOKEN and HF_HUB_OFFLINE mean what they
mean everywhere.
"""

import re
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

from mlxtune.errors import BadModel, BadSetting
from mlxtune.models import weights
from mlxtune.models.aliases import ALIASES, TINY
from mlxtune.models.folder import TOKENIZERS
from mlxtune.models.refusals import absent, explain, in_part, incomplete
from mlxtune.storage.documents import user_path

BUILT_IN = Path(__file__).parent.parent / "assets" / "model"

SMALL = (
    "config.json", "generation_config.json", "hf_quant_config.json", "tokenizer.json", "tokenizer_config.json",
    "tokenizer.model", "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt",
    "chat_template.jinja", "chat_template.json",
)  # fmt: skip
WANTED = (*SMALL, weights.PATTERN, weights.INDEX)


def resolve(name: str | None, *, revision: str | None = None) -> Path:
    """The local folder of a model, fetched from the hub where need be. None is the built-in model.

    A complete copy in the cache is used as it is, without a look at the network. BadModel says why there is no folder.
    """
    place = locate(name, revision)
    return place if isinstance(place, Path) else fetch(place, revision)


def is_here(name: str | None, revision: str | None = None) -> bool:
    """Whether the model can be used without fetching anything."""
    place = locate(name, revision)
    return isinstance(place, Path) or in_cache(place, revision) is not None


def locate(name: str | None, revision: str | None = None) -> Path | str:
    """What a name stands for: a local folder, or the id of a hub repository. Nothing is fetched.

    An alias wins over a folder of the same name; `./name` is always the folder.

    >>> locate("dolphin-8b")
    'cognitivecomputations/dolphin-2.9-llama3-8b'
    """
    if name is None or name == TINY:
        return _unrevised(BUILT_IN, revision)
    if name in ALIASES:
        return ALIASES[name]
    if name and "\0" not in name and (folder := user_path(name, BadModel, "model")).exists():
        return _unrevised(folder, revision)
    if re.fullmatch(r"[\w.-]*\w[\w.-]*/[\w.-]+", name) and not name.startswith(("~", ".")):
        return name
    raise _unknown(name)


def fetch(repo: str, revision: str | None = None) -> Path:
    """The folder of a hub repository: the cache's copy where that is complete, else a download with a progress bar."""
    cached = in_cache(repo, revision)
    if cached is not None:
        return cached
    folder = _fetched(repo, revision, WANTED)
    if not is_complete(folder):
        raise incomplete(repo, revision, folder, absent(folder))
    return folder


def small(name: str | None, revision: str | None = None) -> Path:
    """The folder of a model with at least its config and tokenizer. No weights are fetched."""
    place = locate(name, revision)
    return place if isinstance(place, Path) else in_cache(place, revision) or fetch_small(place, revision)


def fetch_small(repo: str, revision: str | None = None) -> Path:
    """A folder of the cache with a hub repository's config and tokenizer, and of its weights what was there before."""
    folder = _fetched(repo, revision, SMALL)
    if not (folder / "config.json").is_file():
        raise incomplete(repo, revision, folder, "config.json")
    return folder


def stored_shapes(repo: str, revision: str | None = None) -> dict[str, tuple[int, ...]]:
    """The tensors of a hub repository's weight files, by name: only their headers are asked for."""
    from huggingface_hub import HfApi

    try:
        found = HfApi().get_safetensors_metadata(repo, revision=revision).files_metadata
    except Exception as error:  # an open set, as in _fetched
        raise explain(error, repo, revision) from error
    return {name: tuple(tensor.shape) for file in sorted(found) for name, tensor in found[file].tensors.items()}


def _fetched(repo: str, revision: str | None, patterns: Sequence[str]) -> Path:
    try:
        return _snapshot(repo, revision, patterns)
    except Exception as error:  # the library's own, httpx's and the system's: an open set, all told in one message
        part = _part(error)
        raise (explain(error, repo, revision) if part is None else in_part(repo, part)) from error


def in_cache(repo: str, revision: str | None = None) -> Path | None:
    """The folder of a repository that the local cache holds completely; touches no network."""
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        folder = _snapshot(repo, revision, WANTED, local_files_only=True)
    except (HFValidationError, LocalEntryNotFoundError):
        return None
    return folder if is_complete(folder) else None


def _snapshot(repo: str, revision: str | None, patterns: Sequence[str], local_files_only: bool = False) -> Path:
    from huggingface_hub import snapshot_download

    folder = snapshot_download(
        repo,
        revision=revision,
        local_files_only=local_files_only,
        allow_patterns=[*patterns],
        ignore_patterns=["*/*"],
    )
    return Path(folder)


def _part(error: Exception) -> Path | None:
    """The folder of the cache that IncompleteSnapshotError (huggingface_hub 2) names, with some of the files."""
    place = getattr(error, "snapshot_path", None)
    return None if place is None else Path(place)


def is_complete(folder: Path) -> bool:
    """Whether config, tokenizer and every weight file are there. An interrupted download leaves some of them out."""
    if not (folder / "config.json").is_file() or not any((folder / name).is_file() for name in TOKENIZERS):
        return False
    try:
        return bool(weights.files(folder))
    except BadModel:
        return False


def _unrevised(folder: Path, revision: str | None) -> Path:
    if revision is not None:
        raise BadSetting(
            "model.revision",
            expected="no revision, as the model is a local folder",
            found=repr(revision),
            remedy="Only models of the hub have revisions. Leave it out.",
        )
    return folder


def _unknown(name: str) -> BadModel:
    """A name that is no alias, no hub id and no folder."""
    if "/" in name or name.startswith(("~", ".")):
        return BadModel(name, expected="a model folder", found="no such folder", remedy="Check the path.")
    near = get_close_matches(name.lower(), [TINY, *ALIASES], n=1, cutoff=0.5)
    remedy = f"Did you mean {near[0]}?\n" if near else ""
    remedy += "`mlxtune models` lists the aliases; a hub id is ORGANISATION/NAME."
    return BadModel("model.name", expected="an alias, a hub id or a folder", found=repr(name), remedy=remedy)

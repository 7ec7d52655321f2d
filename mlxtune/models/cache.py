"""Which models the local Hugging Face cache holds, and which of them can be used as they are."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlxtune.models.hub import is_complete

if TYPE_CHECKING:
    from huggingface_hub import CachedRepoInfo


@dataclass(frozen=True)
class CachedModel:
    """A repository in the cache."""

    repo: str
    bytes: int  # on the disk, all revisions together
    complete: bool  # config, tokenizer and every weight file are there in one revision at least


def cached_models() -> tuple[CachedModel, ...]:
    """The models in the cache, by name. Those that are data sets or adapters are left out, damaged ones too."""
    from huggingface_hub import CacheNotFound, constants, scan_cache_dir

    try:
        repos = scan_cache_dir(constants.HF_HUB_CACHE).repos
    except CacheNotFound:
        return ()
    return tuple(sorted(_models(repos), key=lambda model: model.repo.lower()))


def _models(repos: "frozenset[CachedRepoInfo]") -> Iterator[CachedModel]:
    for repo in repos:
        folders = [revision.snapshot_path for revision in repo.revisions]
        if repo.repo_type == "model" and any((folder / "config.json").is_file() for folder in folders):
            yield CachedModel(repo.repo_id, repo.size_on_disk, any(is_complete(folder) for folder in folders))

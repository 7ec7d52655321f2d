"""What `mlxtune memory --measure` found, measured over predicted, kept beside the cache for later plans."""

import hashlib
import json
import platform
from pathlib import Path

from mlxtune.models.config import ModelConfig
from mlxtune.storage.files import cache_folder, write_json


def _file(config: ModelConfig, backend: str) -> Path:
    about = json.dumps([dict(config.raw), backend, platform.machine(), platform.node()], sort_keys=True, default=str)
    return cache_folder() / "memory" / f"{hashlib.sha256(about.encode()).hexdigest()[:24]}.json"


def read(config: ModelConfig, backend: str) -> float:
    """The ratio, or 1 where nothing was measured."""
    try:
        return float(json.loads(_file(config, backend).read_text())["ratio"])
    except (OSError, ValueError, KeyError):
        return 1.0


def write(config: ModelConfig, backend: str, ratio: float) -> None:
    """Keep a ratio for later plans."""
    path = _file(config, backend)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"ratio": ratio})

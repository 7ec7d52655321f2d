"""The settings that choose the model."""

from mlxtune.settings import section


@section
class ModelSettings:
    """name: an alias, a hub id, a local folder or the preset `tiny`; None is the built-in model, which is `tiny`."""

    name: str | None = None
    revision: str | None = None  # a branch, tag or commit of the hub repository; None is its main branch

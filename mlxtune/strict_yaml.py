"""YAML as people mean it: 1e-5 is a number, and a key given twice is an error with its line."""

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from mlxtune.errors import BadSetting


class _Loader(yaml.SafeLoader):
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.MarkedYAMLError(problem=f"the key {key!r} a second time", problem_mark=key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


# YAML 1.1, which PyYAML reads, wants a point and a sign in "1.0e-5" and takes "1e-5" for text.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9][0-9_]*(?:\.[0-9_]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def load_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file. Raises BadSetting with the line of a fault."""
    try:
        document = yaml.load(path.read_text(encoding="utf-8-sig"), _Loader)
    except OSError as error:
        raise BadSetting(str(path), expected="a readable recipe file", found=str(error.strerror)) from error
    except UnicodeDecodeError as error:
        raise BadSetting(str(path), expected="a YAML file in UTF-8", found=str(error)) from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{path}:{mark.line + 1}" if mark else str(path)
        raise BadSetting(place, expected="YAML", found=getattr(error, "problem", None) or str(error)) from error
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise BadSetting(str(path), expected="sections of keys", found=type(document).__name__)
    return document


def scalar(text: str) -> Any:
    """One value as YAML reads it: "3" is a number, "true" a truth, "null" nothing.

    >>> scalar("1e-5"), scalar("all"), scalar("[q_proj, v_proj]")
    (1e-05, 'all', ['q_proj', 'v_proj'])
    """
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError:
        return text

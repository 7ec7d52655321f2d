"""YAML as people mean it: names, texts, numbers, truths, lists and sections, and nothing that makes other objects.

1e-5 is a number, a date is a text, a key is a name, and a key that is given twice is an error with its line.
"""

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from mlxtune.errors import BadSetting, MlxtuneError
from mlxtune.format import shown
from mlxtune.storage.documents import (
    Limits,
    Unreadable,
    check_tree,
    check_unicode,
    decoded,
    read_bytes,
    too_deep,
    user_path,
)

LIMITS = Limits(bytes=100_000, depth=16, values=10_000)
PLAIN = ("null", "bool", "int", "float", "seq", "map", "str")  # the tags that are read
LONGEST_KEY = 200  # letters of a name


class _Loader(yaml.SafeLoader):
    """PyYAML's, for PLAIN alone. Its constructors are PyYAML's own; what they raise for a bad value gets a line."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self.depth += 1
        if self.depth > 2 * LIMITS.depth:
            raise too_deep(LIMITS)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        if node.tag not in self.yaml_constructors:
            raise _fault(node, "a plain value", f"the tag {shown(node.tag)}")
        try:
            value = super().construct_object(node, deep)
            if isinstance(value, int) and abs(value) >= 10**LIMITS.digits:
                raise OverflowError
            return value
        except (ValueError, LookupError, TypeError, AttributeError, OverflowError) as fault:
            if isinstance(fault, Unreadable):
                raise
            kind = node.tag.rpartition(":")[2]
            raise _fault(node, f"a value of the kind {kind}", shown(node.value)) from None

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            key = self._name(key_node)
            if key in seen:
                raise _fault(key_node, "each key once", f"the key {shown(key)} a second time")
            seen.add(key)
        return super().construct_mapping(node, deep)

    def _name(self, node: yaml.Node) -> str:
        if node.tag == "tag:yaml.org,2002:merge":
            raise _fault(node, "keys that are written out", "a merge of another section, <<")
        name = self.construct_object(node, deep=True)
        if not isinstance(name, str) or len(name) > LONGEST_KEY:
            raise _fault(node, "a name as key", shown(name))
        return name


_Loader.yaml_constructors = {
    tag: made for tag, made in yaml.SafeLoader.yaml_constructors.items() if tag and tag.rpartition(":")[2] in PLAIN
}
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in kinds if not tag.endswith(":timestamp")]
    for first, kinds in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
# YAML 1.1, which PyYAML reads, wants a point and a sign in "1.0e-5" and takes "1e-5" for text.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9][0-9_]*(?:\.[0-9_]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def load_yaml(path: Path, error: type[MlxtuneError] = BadSetting) -> dict[str, Any]:
    """The mapping in a YAML file; empty where the file is. Raises `error` with the line of a fault."""
    path = user_path(path, error)
    try:
        document = _parsed(decoded(read_bytes(path, LIMITS.bytes)))
        if not isinstance(document, dict | None):
            raise Unreadable("sections of keys", shown(document))
        return document or {}
    except Unreadable as fault:
        raise fault.as_error(path, error) from None


def scalar(text: str) -> Any:
    """One value as YAML reads it: "3" is a number, "true" a truth, "null" nothing; what is no YAML is a text.

    >>> scalar("1e-5"), scalar("all"), scalar("[q_proj, v_proj]"), scalar("!!float x")
    (1e-05, 'all', ['q_proj', 'v_proj'], '!!float x')
    """
    try:
        return _parsed(text) if len(text) <= LIMITS.bytes else text
    except Unreadable:
        return text


def _parsed(text: str) -> Any:
    try:
        document = yaml.load(text, _Loader)
    except yaml.YAMLError as fault:
        mark = getattr(fault, "problem_mark", None)
        said = getattr(fault, "problem", None) or str(fault).splitlines()[0]
        raise Unreadable("YAML", said, mark.line + 1 if mark else None) from None
    except RecursionError:
        raise too_deep(LIMITS) from None
    except (ValueError, OverflowError) as fault:  # an escape or a version number out of Python's range
        raise (fault if isinstance(fault, Unreadable) else Unreadable("YAML", str(fault))) from None
    check_tree(document, LIMITS)
    check_unicode(document)
    return document


def _fault(node: yaml.Node, expected: str, found: str) -> Unreadable:
    return Unreadable(expected, found, node.start_mark.line + 1)

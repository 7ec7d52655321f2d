"""Chat templates come with a model and may be anything: each ends soon, in little memory, with one short message."""

import json
import os
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from mlxtune.data.faults import BadRow
from mlxtune.data.template import Writer, prompt_text
from mlxtune.errors import BadData, BadModel
from tests.support.checkout import ROOT
from tests.support.cli import model
from tests.support.tokenizers import shared_template, tokenizer

NOW = datetime(2031, 7, 26, 12)
MESSAGES = [{"role": role, "content": "hello there"} for role in ("user", "assistant")] * 3
SECONDS, MEGABYTES, LETTERS = 5.0, 600, 1_000
TWICE = "{% macro twice(s) %}{{ s }}{{ s }}{% endmacro %}"
LOOP = "{% for i in range(99999) %}"
DOUBLED = "{% set ns = namespace(s='x', l=[1], m=[1], t=(1, 2)) %}{% for i in range(60) %}"
LISTS = DOUBLED + "{% set ns.l = [ns.l, ns.l] %}{% set ns.m = [ns.m, ns.m] %}{% set ns.t = (ns.t, ns.t) %}{% endfor %}"
BIG = "{% set a = 'x' * 1000000 %}{% set b = 'x' * 1000000 %}" + LOOP

ENDLESS = {
    "loops in loops": LOOP + LOOP + "{% endfor %}{% endfor %}",
    "loops that skip": LOOP + "{% for j in range(99999) if j < 0 %}{% endfor %}{% endfor %}",
    "loops of one output": LOOP + "{{ messages }}{% endfor %}",
    "a long literal, often": LOOP + "x" * 90_000 + "{% endfor %}",
    "a long literal of a macro": "{% macro m() %}" + "x" * 90_000 + "{% endmacro %}" + LOOP + "{{ m() }}{% endfor %}",
    "nested loops": "{% for i in [1, 2] %}" * 19 + "{% endfor %}" * 19,
    "recursive loop": "{% for x in [1, 2] recursive %}{{ loop([1, 2]) if loop.depth < 90 }}{% endfor %}",
    "doubled by ~": DOUBLED + "{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
    "doubled by +": DOUBLED + "{% set ns.s = ns.s + ns.s %}{% endfor %}",
    "doubled by a block": DOUBLED + "{% set a %}{{ ns.s }}{{ ns.s }}{% endset %}{% set ns.s = a %}{% endfor %}",
    "doubled by join": DOUBLED + "{% set ns.s = [ns.s, ns.s]|join %}{% endfor %}",
    "doubled by a format": DOUBLED + "{% set ns.s = '{}{}'.format(ns.s, ns.s) %}{% endfor %}",
    "doubled by %": DOUBLED + "{% set ns.s = '%s%s' % (ns.s, ns.s) %}{% endfor %}",
    "doubled by replace": DOUBLED + "{% set ns.s = ns.s.replace('x', 'xx') %}{% endfor %}",
    "doubled by a macro": TWICE + DOUBLED + "{% set ns.s = twice(ns.s) %}{% endfor %}",
    "a list doubled": DOUBLED + "{% set ns.l = ns.l + ns.l %}{% endfor %}",
    "lists in lists, written": LISTS + "{{ ns.l }}",
    "lists in lists, as JSON": LISTS + "{{ ns.l|tojson }}",
    "lists in lists, compared": LISTS + "{{ ns.l == ns.m }}",
    "lists in lists, looked for": LISTS + "{{ ns.l in [ns.m] }}{{ [ns.l].index(ns.m) }}",
    "lists in lists, tested": LISTS + "{{ [ns.l]|select('eq', ns.m)|list|length }}",
    "lists in lists, sorted": LISTS + "{{ [ns.l, ns.m]|sort|length }}",
    "lists in lists, as keys": LISTS + "{{ {ns.t: 1} }}",
    "lists in lists, as a key": LISTS + "{{ messages[0][ns.t] }}",
    "lists in lists, changed": LISTS + "{% for x in [ns.l, ns.m] %}{{ loop.changed(x) }}{% endfor %}",
    "lists in lists, raised": LISTS + "{{ raise_exception(ns.l) }}",
    "'x' * 10**9": "{{ 'x' * 10**9 }}",
    "[1] * 10**9": "{{ ([1] * 10**9)|length }}",
    "a product of products": "{{ ('x' * 10**6) * 10**6 }}",
    "lists of a range": LOOP + "{{ range(99999)|list|length }}{% endfor %}",
    "sums of a range": LOOP + "{{ range(99999)|sum }}{% endfor %}",
    "sums of lists": "{{ ([[1]] * 99999)|sum(start=[])|length }}",
    "selections of a range": LOOP + "{{ range(99999)|selectattr('nothing')|list|length }}{% endfor %}",
    "long texts compared": BIG + "{{ a == b }}{% endfor %}",
    "long texts searched": BIG + "{{ 'y' in a }}{{ a.find('y') }}{% endfor %}",
    "long texts in capitals": BIG + "{{ a|title|length }}{% endfor %}",
    "many parts of a text": BIG + "{% set ns = namespace(l=[]) %}{% set ns.l = ns.l + [a[i:]] %}{% endfor %}",
    "replace": "{{ ('x' * 10000).replace('x', 'y' * 1000000) }}",
    "replace by a filter": "{{ ('x' * 10000)|replace('', 'y' * 1000000) }}",
    "join": "{{ ('x' * 1000000).join(range(99999)|map('string')) }}",
    "join by a filter": "{{ range(99999)|join('x' * 1000000) }}",
    "indent": "{{ ('\\n' * 1000000)|indent('x' * 999) }}",
    "a thousand wide, often": LOOP + "{{ '{:999}'.format(1) }}{% endfor %}",
    "macros without end": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "macros that call twice": "{% macro m(n) %}{% if n %}{{ m(n - 1) ~ m(n - 1) }}{% endif %}{% endmacro %}{{ m(90) }}",
    "a block in itself": "{% block a %}{{ self.a() }}{% endblock %}",
    "marked without end": LOOP + "{% generation %}{{ 'x' * 1000 }}{% endgeneration %}{% endfor %}",
}  # fmt: skip
REFUSED = {
    "a range of 10**9": "{% for i in range(10**9) %}{% endfor %}",
    "powers": "{% set a = 10 ** 1000 %}{{ a ** 1000 }}",
    "squares": "{% set ns = namespace(s=3) %}{% for i in range(60) %}{% set ns.s = ns.s * ns.s %}{% endfor %}",
    "center": "{{ 'x'|center(10**9) }}",
    "ljust": "{{ 'x'.ljust(10**9) }}",
    "ljust of Markup": "{{ ('x'|e).ljust(10**9) }}",
    "zfill": "{{ 'x'.zfill(10**9) }}",
    "expandtabs": "{{ '\\t'.expandtabs(10**9) }}",
    "to_bytes": "{{ (5).to_bytes(10**9, 'big') }}",
    "an indent of 10**9": "{{ [1]|tojson(indent=10**9) }}",
    "rounded to 10**9 digits": "{{ 1.5|round(10**9, 'ceil') }}",
    "batches of 10**9": "{{ [1]|batch(10**9, 0)|list|length }}",
    "a wide %": "{{ '%1000000000d' % 1 }}",
    "a wide % by a key": "{{ '%(a)1000000000d' % {'a': 1} }}",
    "a % as wide as it is told": "{{ '%*d' % (10**9, 1) }}",
    "a precise %": "{{ '%.1000000000f' % 1 }}",
    "a wide format": "{{ '{:1000000000}'.format(1) }}",
    "a format as wide as it is told": "{{ '{:{}}'.format(1, 10**9) }}",
    "a wide format filter": "{{ '%1000000000d'|format(1) }}",
    "a long refusal": "{{ raise_exception('x' * 1000000) }}",
    "another file": "{% include 'other' %}",
}
NO_TEMPLATE = {
    "lipsum": "{{ lipsum(n=10**7) }}",
    "striptags": "{{ '<!--'|striptags }}",
    "parentheses": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "conditions": "{% if 1 %}" * 3000 + "{% endif %}" * 3000,
    "a novel": "x" * 2_000_000,
    "an open end": "{% for message in messages %}",
}


def peak_megabytes() -> float:
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


def rendered(template: str) -> str:
    made: Any = tokenizer()
    made.chat_template = template
    writer = Writer(made, MESSAGES, None, NOW)
    return writer(writer.messages, False)


@pytest.mark.parametrize(
    ("fault", "template"),
    [
        *(
            pytest.param(BadModel, text, id=name)
            for name, text in {**ENDLESS, **NO_TEMPLATE}.items()
            if name != "lipsum"
        ),
        *(pytest.param(BadRow, text, id=name) for name, text in REFUSED.items()),
        pytest.param(BadRow, NO_TEMPLATE["lipsum"], id="lipsum"),
    ],
)
@pytest.mark.few(2)
def test_a_hostile_template_ends_soon_in_little_memory_with_a_short_message(fault: type, template: str) -> None:
    began, before = time.process_time(), peak_megabytes()
    with pytest.raises(fault) as refused:
        rendered(template)
    assert time.process_time() - began < SECONDS
    assert peak_megabytes() - before < MEGABYTES
    assert len(str(refused.value)) < LETTERS


def test_a_long_conversation_is_no_endless_one() -> None:
    made = tokenizer(shared_template("qwen3"))
    messages = [{"role": role, "content": "word " * 400} for role in ("user", "assistant")] * 500
    writer = Writer(made, messages, None, NOW)
    assert writer(writer.messages, False) == made.apply_chat_template(messages, tokenize=False)


def test_a_template_that_copies_what_it_has_written_for_each_message_is_no_endless_one() -> None:
    template = (
        "{% set ns = namespace(s='') %}{% for m in messages %}{% set ns.s = ns.s ~ m.content %}{% endfor %}{{ ns.s }}"
    )
    made: Any = tokenizer(template)
    messages = [{"role": "user", "content": "word " * 200}] * 300
    writer = Writer(made, messages, None, NOW)
    assert writer(writer.messages, False) == "word " * 60_000


def test_what_a_prompt_is_refused_for_is_a_message() -> None:
    made = tokenizer(shared_template("gemma"))
    with pytest.raises(BadData, match="System role not supported"):
        prompt_text([{"role": "system", "content": "s"}, {"role": "user", "content": "q"}], made, NOW)


@pytest.mark.slow
@pytest.mark.parametrize(
    "verb", [("data",), ("train", "--max-steps", "2"), ("eval",), ("generate", "--prompt", "Hello"), ("chat",)]
)
def test_every_verb_refuses_an_endless_template_in_one_message(tmp_path: Path, verb: tuple[str, ...]) -> None:
    folder = model(tmp_path)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config["chat_template"] = ENDLESS["loops in loops"]
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"messages": MESSAGES}) + "\n" for _ in range(50)))
    given = [] if verb[0] in ("generate", "chat") else ["--data", "rows.jsonl"]
    command = [sys.executable, "-m", "mlxtune", *verb, *given, "--model", str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(command, input="Hello\n", capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert (ended.returncode, ended.stderr.count("error: ")) == (2, 1)
    assert "a chat template that ends" in ended.stderr
    assert "Traceback" not in ended.stderr

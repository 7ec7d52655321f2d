"""A conversation: what stays of it when an answer is ended early, and what its commands do."""

import os
import pty
import re
import select
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from mlxtune import inference as try_it
from mlxtune import speech
from mlxtune.backends.base import BackendSettings, Sampling
from mlxtune.cli import chat

GREEDY = Sampling(max_tokens=8, temperature=0.0, top_p=1.0, seed=0)


@pytest.fixture(scope="module")
def loaded() -> speech.Loaded:
    return try_it.load(None, None, BackendSettings(name="numpy", precision="fp32"))


def test_an_answer_that_is_ended_early_stays_as_far_as_it_was_said(loaded: speech.Loaded):
    conversation = try_it.Conversation(loaded, GREEDY)
    pieces = conversation.ask("Tell me a story.")
    said = next(pieces) + next(pieces)
    pieces.close()
    assert conversation.messages[-1] == {"role": "assistant", "content": said}


def test_a_question_without_an_answer_is_forgotten(loaded: speech.Loaded, monkeypatch: pytest.MonkeyPatch):
    def interrupted(*_: object) -> Iterator[str]:
        raise KeyboardInterrupt
        yield ""

    monkeypatch.setattr(try_it, "reply", interrupted)
    conversation = try_it.Conversation(loaded, GREEDY)
    chat._say(conversation.ask("Tell me a story."))
    assert conversation.messages == []


def test_reset_forgets_all_but_the_system_message(loaded: speech.Loaded):
    conversation = try_it.Conversation(loaded, GREEDY, system="Be brief.")
    list(conversation.ask("Tell me a story."))
    conversation.reset()
    assert conversation.messages == [{"role": "system", "content": "Be brief."}]


def test_an_unknown_command_is_told_and_never_asked(capsys: pytest.CaptureFixture[str]):
    chat._answer(None, "/rest")  # type: ignore[arg-type]  # a conversation would be asked
    assert "/rest is no command" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "openpty"), reason="there is no terminal to open")
def test_in_a_terminal_ctrl_c_ends_the_answer_and_ctrl_d_the_conversation():
    command = [sys.executable, "-m", "mlxtune", "chat", "--backend", "numpy", "--max-tokens", "4000"]
    outer, inner = pty.openpty()
    program = subprocess.Popen(command, stdin=inner, stdout=inner, stderr=inner, start_new_session=True)
    os.close(inner)
    try:
        _stop_and_leave(program, Terminal(outer))
    finally:
        program.kill()
        program.wait()


def _stop_and_leave(program: subprocess.Popen[bytes], screen: "Terminal") -> None:
    assert screen.shows(r"/help lists the commands", 60), screen.text
    for _ in range(20):  # on a busy machine an answer may be over before it is stopped, and a question be given up
        os.write(screen.handle, b"Tell me a story.\n")
        if screen.shows(r"story\.\s+\w+ \w+ \w+", 20):
            program.send_signal(2)
            if "(stopped)" in screen.shows(r"(\(stopped\)|ends the conversation\.)\s+> $", 20):
                break
    else:
        raise AssertionError(screen.text)
    os.write(screen.handle, b"\x04")
    assert program.wait(30) == 0


class Terminal:
    """What a program has written to a terminal, without the codes that move the cursor."""

    def __init__(self, handle: int) -> None:
        self.handle, self.text = handle, ""

    def shows(self, pattern: str, seconds: float) -> str:
        """What is found within so many seconds, and all before it is forgotten; "" where it never comes."""
        end = time.monotonic() + seconds
        while not (found := re.search(pattern, self.text)):
            if not select.select([self.handle], [], [], max(0.0, end - time.monotonic()))[0]:
                return ""
            written = os.read(self.handle, 4096).decode(errors="replace")
            self.text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]|\r", "", self.text + written)
        self.text = self.text[found.end() :]
        return found[0]

"""Talking in a terminal: keeps the history, Ctrl-C stops an answer, Ctrl-D ends."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import Any

from conch_client.base import SyncClient
from conch_client.errors import ConchClientError, InvalidArgumentError
from conch_client.terminal import Screen
from conch_client.types import Message

_HELP = """/system TEXT  say how the model shall behave (no TEXT: nothing), and start anew
/reset        start anew
/quit         end (also Ctrl-D)
Ctrl-C        stop the answer"""


class _Conversation:
    def __init__(self, system: str | None) -> None:
        self.system = system
        self.turns: list[Message] = []

    def messages(self, text: str) -> list[Message]:
        """All turns and a new one."""
        start: list[Message] = [{"role": "system", "content": self.system}] if self.system else []
        return [*start, *self.turns, {"role": "user", "content": text}]

    def add(self, text: str, answer: str) -> None:
        """Keep a turn and its answer."""
        self.turns += [{"role": "user", "content": text}, {"role": "assistant", "content": answer}]


def run_chat(client: SyncClient, screen: Screen, system: str | None, controls: dict[str, Any]) -> int:
    """Talk until the end of the input.

    Args:
        client: whom to ask.
        screen: where to write.
        system: system message.
        controls: of every answer.

    Returns:
        Exit code 0.
    """
    with suppress(ImportError):
        import readline  # noqa: F401 - gives input() a history and arrow keys, where there is one
    conversation = _Conversation(system)
    interactive = sys.stdin.isatty()
    while True:
        try:
            line = screen.read_line("> " if interactive else "")
        except EOFError:
            if interactive:
                screen.line()
            return 0
        except KeyboardInterrupt:
            screen.line()
            continue
        except InvalidArgumentError as error:
            screen.error(error)
            continue
        if line == "/quit":
            return 0
        if line.startswith("/"):
            _command(line, conversation, screen)
        elif line:
            _turn(line, client, conversation, screen, controls)


def _command(line: str, conversation: _Conversation, screen: Screen) -> None:
    name, _, text = line.partition(" ")
    if name == "/reset" and not text:
        conversation.turns = []
    elif name == "/system":
        conversation.system, conversation.turns = text.strip() or None, []
    elif name == "/help":
        screen.line(_HELP)
    else:
        screen.fail(f"no such command: {line} (see /help)")


def _turn(line: str, client: SyncClient, conversation: _Conversation, screen: Screen, controls: dict[str, Any]) -> None:
    """Ask and print the answer. A turn that failed leaves no trace, one that was stopped keeps what had come."""
    with client.stream(messages=conversation.messages(line), **controls) as stream:
        try:
            screen.answer(stream)
        except ConchClientError as error:
            if not stream.is_cancelled:
                screen.error(error)
            if not stream.is_cancelled or not stream.text:
                return
    conversation.add(line, stream.text)

"""Chat messages to a prompt, with the model's own Jinja template, as transformers renders it.

The template comes with the model and so from a stranger: it runs in Jinja's sandbox, without access to attributes that
begin with an underscore and without the power to change what it is given.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

from jinja2 import TemplateError
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from conch.contract import MESSAGES
from conch.errors import InvalidArgumentError, RepositoryError, UnsupportedError
from conch.text.files import CHAT_TEMPLATE_FILE, TokenizerMeta

ROLES = ("system", "user", "assistant")


@dataclass(frozen=True)
class Message:
    """One turn of a chat.

    Attributes:
        role: one of ROLES.
        content: its text.
    """

    role: str
    content: str


def parse_messages(text: str) -> tuple[Message, ...]:
    """Read the JSON list of a request.

    Raises:
        InvalidArgumentError: not JSON, not a list of objects with exactly role and content, or an unknown role.
    """
    try:
        data = json.loads(text)
    except ValueError as error:
        raise InvalidArgumentError(f"{MESSAGES.name} must be a JSON list of {{role, content}}: {error}") from None
    except RecursionError:
        raise InvalidArgumentError(
            f"{MESSAGES.name} must be a JSON list of {{role, content}}: nested too deep"
        ) from None
    if not isinstance(data, list) or not data:
        raise InvalidArgumentError(f"{MESSAGES.name} must be a JSON list with at least one message, got {_shown(data)}")
    return tuple(_parse_message(item, f"{MESSAGES.name}[{index}]") for index, item in enumerate(data))


def _parse_message(item: Any, where: str) -> Message:
    if not isinstance(item, dict):
        raise InvalidArgumentError(f"{where} must be an object with role and content, got {_shown(item)}")
    for key in item:
        if key not in ("role", "content"):
            raise InvalidArgumentError(f"{where} must have the keys role and content only, got {_shown(key)}")
    for key in ("role", "content"):
        if not isinstance(item.get(key), str):
            raise InvalidArgumentError(f"{where}.{key} must be a string, got {_shown(item.get(key))}")
        try:
            item[key].encode("utf-8")
        except UnicodeEncodeError:  # JSON can write half a surrogate pair
            raise InvalidArgumentError(f"{where}.{key} must be valid Unicode, got a lone surrogate") from None
    if item["role"] not in ROLES:
        raise InvalidArgumentError(f"{where}.role must be one of {', '.join(ROLES)}, got {_shown(item['role'])}")
    return Message(item["role"], item["content"])


def _shown(value: Any) -> str:
    try:
        text = json.dumps(value, ensure_ascii=True)
    except RecursionError:
        return "something nested too deep"
    return text if len(text) <= 60 else text[:57] + "..."


class ChatTemplate:
    """A compiled chat template.

    Args:
        source: Jinja text.
        meta: gives the template its bos_token and eos_token.

    Raises:
        RepositoryError: the template does not compile.
    """

    def __init__(self, source: str, meta: TokenizerMeta) -> None:
        # trim_blocks and lstrip_blocks as in transformers: templates are written for them.
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
        environment.globals["raise_exception"] = _raise_exception
        environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
        environment.filters["tojson"] = lambda value, indent=None: json.dumps(value, ensure_ascii=False, indent=indent)
        try:
            self._template = environment.from_string(source)
        except TemplateError as error:
            raise RepositoryError(f"chat template does not compile: {error}") from None
        self._tokens = {"bos_token": meta.bos_token, "eos_token": meta.eos_token}

    @classmethod
    def load(cls, folder: Path, meta: TokenizerMeta) -> ChatTemplate | None:
        """Read the template of a tokenizer folder; None where the model has none.

        Raises:
            RepositoryError: it cannot be read or does not compile.
        """
        path = folder / CHAT_TEMPLATE_FILE
        if not path.exists():
            return None
        try:
            return cls(path.read_text(encoding="utf-8"), meta)
        except (OSError, UnicodeDecodeError) as error:
            raise RepositoryError(f"{path} cannot be read: {error}") from None

    def render(self, messages: Sequence[Message]) -> str:
        """The prompt for the assistant's next turn.

        Raises:
            InvalidArgumentError: the template refuses the messages (the order of roles, say).
        """
        turns = [{"role": m.role, "content": m.content} for m in messages]
        try:
            return self._template.render(messages=turns, add_generation_prompt=True, **self._tokens)
        except Exception as error:  # the template is a stranger's code, and may fail in any way
            raise InvalidArgumentError(f"{MESSAGES.name} do not fit the model's chat template: {error}") from None


def require(template: ChatTemplate | None) -> ChatTemplate:
    """The template, or a refusal.

    Raises:
        UnsupportedError: the model has none.
    """
    if template is None:
        raise UnsupportedError(f"{MESSAGES.name} need a chat template, and this model has none; send text_input")
    return template


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)

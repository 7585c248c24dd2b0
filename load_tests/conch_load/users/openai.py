"""Any server of the OpenAI API, streamed: completions for prompts, chat completions for chats.

``ignore_eos`` and ``min_tokens`` force the length of answers; vLLM, SGLang and others know them, OpenAI's own service
does not (--free-output leaves them away). The key, if one is needed, is in the variable CONCH_LOAD_API_KEY: it is never
written down.
"""

from __future__ import annotations

import http.client
import json
import os
from typing import Any

from conch_client.address import http_address
from conch_client.errors import ConchClientError
from conch_client.types import Tls

from conch_load.config import RunConfig
from conch_load.users.base import FrontError
from conch_load.users.exchange import BAD_RESPONSE, CUT, Exchange
from conch_load.users.http_pool import HttpPool, StatusError, events, note_broken

API_KEY_VARIABLE = "CONCH_LOAD_API_KEY"
_DONE = b"[DONE]"


class OpenAi:
    """The front ``openai``.

    Args:
        config: of the run; its target is the server's address, with or without ``/v1``.
    """

    def __init__(self, config: RunConfig) -> None:
        self._config = config
        target = config.target.rstrip("/").removesuffix("/v1")
        try:
            self._address = http_address(target, Tls() if target.startswith("https://") else None)
        except ConchClientError as error:
            raise FrontError(f"target: {error}") from None
        key = os.environ.get(API_KEY_VARIABLE)
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._pool = HttpPool(self._address, config.timeout_s)

    def connect(self) -> None:
        try:
            status, body = self._pool.get("/v1/models", self._headers)
        except (OSError, http.client.HTTPException) as error:
            raise FrontError(f"cannot reach {self._address}: {error}") from None
        if status == 404:
            return  # a server without a list of models; the first request will tell
        if status != 200:
            raise FrontError(f"{self._address}/v1/models: HTTP status {status}: {_error_text(body)}")
        try:
            names = [str(model["id"]) for model in json.loads(body)["data"]]
        except (ValueError, KeyError, TypeError):
            raise FrontError(f"{self._address}/v1/models is not a list of models: {body[:200]!r}") from None
        if self._config.model not in names:
            raise FrontError(f"{self._address} has no model {self._config.model}; it has {', '.join(names) or 'none'}")

    def send(self, exchange: Exchange) -> None:
        path = "/v1/completions" if exchange.ask.text is not None else "/v1/chat/completions"
        headers = {**self._headers, "X-Request-Id": exchange.request_id}
        pieces = self._pool.post(path, self._body(exchange), headers, exchange)
        done = False
        try:
            for data, at_ns in events(pieces):
                if data.strip() == _DONE:
                    done = True
                else:
                    _take(exchange, data, at_ns)
            exchange.end()
            if exchange.finish_reason is None or not done:
                missing = "[DONE]" if exchange.finish_reason else "a finish_reason"
                exchange.fail(CUT, f"the stream ended without {missing}")
        except StatusError as error:
            exchange.end()
            exchange.fail(str(error.status), _error_text(error.body))
        except (OSError, http.client.HTTPException) as error:
            note_broken(exchange, error, self._config.timeout_s)
        except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            exchange.end()
            exchange.fail(BAD_RESPONSE, f"{type(error).__name__}: {error}")
        finally:
            pieces.close()

    def close(self) -> None:
        self._pool.close()

    def _body(self, exchange: Exchange) -> bytes:
        ask = exchange.ask
        fields: dict[str, Any] = {
            "model": self._config.model, "max_tokens": ask.output_tokens, "temperature": 0, "stream": True,
            "stream_options": {"include_usage": True},
        }  # fmt: skip
        if ask.text is not None:
            fields["prompt"] = ask.text
        else:
            fields["messages"] = list(ask.messages or ())
        if self._config.workload.force_output:
            fields |= {"ignore_eos": True, "min_tokens": ask.output_tokens}
        return json.dumps(fields, ensure_ascii=False).encode()


def _take(exchange: Exchange, data: bytes, at_ns: int) -> None:
    event = json.loads(data)
    if "error" in event:
        error = event["error"]
        text = str(error.get("message", error)) if isinstance(error, dict) else str(error)
        exchange.fail(str(error.get("code") or "error") if isinstance(error, dict) else "error", text)
        return
    usage = event.get("usage")
    if usage:
        exchange.prompt_tokens = usage.get("prompt_tokens")
        exchange.output_tokens = usage.get("completion_tokens")
    for choice in event.get("choices", ()):
        # A role chunk, which has no text, is no token: servers send it before the model has begun.
        # What a model thinks is generated like the rest of it, and comes before; servers have two names for it.
        delta = choice.get("delta") or {}
        names = ("content", "reasoning_content", "reasoning")
        text = choice.get("text") or next((delta[name] for name in names if delta.get(name)), "")
        if text:
            exchange.chunk(at_ns, text, None)
        if choice.get("finish_reason"):
            exchange.finish_reason = str(choice["finish_reason"])


def _error_text(body: bytes) -> str:
    try:
        error = json.loads(body)["error"]
        return str(error.get("message", error)) if isinstance(error, dict) else str(error)
    except (ValueError, KeyError, TypeError, AttributeError):
        return body[:200].decode("utf-8", "replace")

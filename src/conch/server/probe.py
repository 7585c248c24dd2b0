"""Asks a running tritonserver over HTTP: is a model ready, does the ensemble really answer."""

from __future__ import annotations

import http.client
import json
from dataclasses import dataclass

from conch.contract import ENGINE, ENSEMBLE, INPUT_IDS, INPUT_LENGTHS, MAX_TOKENS, TEXT_INPUT
from conch.metric_table import RUNNING, WAITING

ADMIN_HEADER = "conch-admin-key"
READY, UNAVAILABLE = "READY", "UNAVAILABLE"
_QUICK_S = 5.0
_LOAD_S = 60.0  # of an ensemble, which has no files


@dataclass(frozen=True)
class Answer:
    """An HTTP answer; status 0 where there was none.

    Attributes:
        status: HTTP status.
        body: its text, or why there was no answer.
    """

    status: int
    body: str

    @property
    def ok(self) -> bool:
        """Whether it is a success."""
        return self.status == 200


def ask(
    host: str,
    port: int,
    method: str,
    path: str,
    *,
    body: str | None = None,
    headers: dict[str, str] | None = None,
    timeout_s: float = _QUICK_S,
) -> Answer:
    """One HTTP request on a connection of its own: an idle one would hold up Triton's shutdown."""
    connection = http.client.HTTPConnection(host, port, timeout=timeout_s)
    try:
        connection.request(method, path, body=body, headers={"Connection": "close", **(headers or {})})
        response = connection.getresponse()
        return Answer(response.status, response.read().decode(errors="replace"))
    except (OSError, http.client.HTTPException) as error:
        return Answer(0, str(error) or type(error).__name__)
    finally:
        connection.close()


def model_ready(host: str, port: int, name: str) -> bool:
    """Whether Triton says that a model can answer."""
    return ask(host, port, "GET", f"/v2/models/{name}/ready").ok


def first_token(host: str, port: int, timeout_s: float) -> Answer:
    """One real inference of one token through the ensemble: ready endpoints say 200 even when a stub is dead."""
    body = json.dumps({TEXT_INPUT.name: "Hi", MAX_TOKENS.name: 1})
    return ask(host, port, "POST", f"/v2/models/{ENSEMBLE.name}/generate", body=body, timeout_s=timeout_s)


def engine_token(host: str, port: int, timeout_s: float) -> Answer:
    """One real inference of one token, asked of the engine itself."""
    body = json.dumps({INPUT_IDS.name: [0], INPUT_LENGTHS.name: 1, MAX_TOKENS.engine_name: 1})
    return ask(host, port, "POST", f"/v2/models/{ENGINE.name}/generate", body=body, timeout_s=timeout_s)


def model_states(host: str, port: int, admin_key: str) -> dict[tuple[str, str], str] | None:
    """(model, version) -> READY, LOADING, UNLOADING or UNAVAILABLE; None where Triton does not say.

    A model that was never loaded has the version "" and the state "".
    """
    answer = ask(host, port, "POST", "/v2/repository/index", headers={ADMIN_HEADER: admin_key})
    if not answer.ok:
        return None
    entries = json.loads(answer.body)
    return {(e["name"], e.get("version", "")): e.get("state", "") for e in entries}


def rows_in_engine(host: str, metrics_port: int) -> int | None:
    """Rows that the engine computes or lets wait, as its metrics say; None where they do not."""
    answer = ask(host, metrics_port, "GET", "/metrics")
    lines = [line for line in answer.body.splitlines() if line.startswith((f"{RUNNING.name}{{", f"{WAITING.name}{{"))]
    try:
        return sum(int(float(line.rpartition(" ")[2])) for line in lines) if answer.ok and lines else None
    except ValueError:
        return None


def unload(host: str, port: int, admin_key: str, name: str, timeout_s: float = _QUICK_S) -> Answer:
    """Tell Triton to take no new requests for a model; returns at once, those in flight go on.

    Args:
        timeout_s: waits this long for the answer, and never longer than a few seconds.
    """
    headers, timeout_s = {ADMIN_HEADER: admin_key}, max(0.1, min(timeout_s, _QUICK_S))
    return ask(host, port, "POST", f"/v2/repository/models/{name}/unload", headers=headers, timeout_s=timeout_s)


def load(host: str, port: int, admin_key: str, name: str) -> Answer:
    """Tell Triton to load a model; returns when that is done."""
    path = f"/v2/repository/models/{name}/load"
    return ask(host, port, "POST", path, headers={ADMIN_HEADER: admin_key}, timeout_s=_LOAD_S)

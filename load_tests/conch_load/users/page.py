"""The live page: token metrics on a route of Locust's own web server, and a table in its main page."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flask import jsonify, make_response, request, send_from_directory

from conch_load.records import REPORT_HTML_FILE

if TYPE_CHECKING:
    from conch_load.users.controller import Controller

_PAGE = Path(__file__).parent / "page.html"
_TABLE = (
    ("metric", "Metric"), ("p50", "p50, or now"), ("p95", "p95"), ("p99", "p99"),
)  # fmt: skip


def add_page(web_ui: Any, controller: Callable[[], Controller]) -> None:
    """Add ``/tokens``, ``/tokens/data``, ``/tokens/report`` and the tab "Tokens"."""
    app = web_ui.app
    web_ui.template_args["extended_tabs"] = [{"title": "Tokens", "key": "tokens"}]
    web_ui.template_args["extended_tables"] = [
        {"key": "tokens", "structure": [{"key": key, "title": title} for key, title in _TABLE]}
    ]

    def tokens() -> Any:
        return make_response(_PAGE.read_text(encoding="utf-8"))

    def data() -> Any:
        return jsonify(_data(controller(), int(request.args.get("after", "-1"))))

    def report() -> Any:
        folder = controller().folder
        if folder is None or not (folder / REPORT_HTML_FILE).is_file():
            return make_response("there is no report yet", 404)
        return send_from_directory(folder.resolve(), REPORT_HTML_FILE)

    def extend(response: Any) -> Any:
        if request.path.endswith("/stats/requests") and response.is_json:
            body = response.get_json()
            body["extended_stats"] = [{"key": "tokens", "data": _rows(controller())}]
            response.set_data(app.json.dumps(body))
        return response

    for path, name, view in (
        ("/tokens", "tokens", tokens), ("/tokens/data", "tokens_data", data),
        ("/tokens/report", "tokens_report", report),
    ):  # fmt: skip
        app.add_url_rule(path, name, web_ui.auth_required_if_enabled(view))
    app.after_request(extend)


def _data(controller: Controller, after: int) -> dict[str, Any]:
    live, folder = controller.live, controller.folder
    points = [point for point in live.points(controller.second) if point["second"] > after]
    return {
        "title": live.title, "state": live.state, "second": controller.second, "requests": live.requests,
        "output_tokens": live.output_tokens, "errors": dict(live.errors), "points": points,
        "folder": None if folder is None else str(folder),
        "report": folder is not None and (folder / REPORT_HTML_FILE).is_file(),
    }  # fmt: skip


def _rows(controller: Controller) -> list[dict[str, Any]]:
    points = controller.live.points(controller.second)
    if not points:
        return []
    last, rows = points[-1], []
    for name, label in (("ttft_ms", "TTFT, ms"), ("tpot_ms", "TPOT, ms"), ("e2e_ms", "end to end, ms")):
        rows.append({"metric": label, **(last[name] or {"p50": "-", "p95": "-", "p99": "-"})})
    for name, label in (("output_tokens_per_s", "output tokens/s"), ("requests_per_s", "requests/s"),
                        ("in_flight", "in flight"), ("loop_lag_ms", "generator's loop lag, ms"),
                        ("cpu_share", "generator's processor, share of a core")):  # fmt: skip
        rows.append({"metric": label, "p50": round(last[name], 2), "p95": "", "p99": ""})
    return rows

"""The command ``conch``: ask, chat, models, health, metrics."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

from conch_client import _contract as contract
from conch_client.base import DEFAULT_TIMEOUT_S, SyncClient
from conch_client.chat import run_chat
from conch_client.clients import Client, HttpClient
from conch_client.errors import CancelledError, ConchClientError, InvalidArgumentError
from conch_client.metrics import short
from conch_client.terminal import Screen
from conch_client.types import Completion, Message, Tls

EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 1, 2, 130

# Switches of a request; the others say what a client gets, which the command decides.
_SWITCHES = ("early_stopping", "return_log_probs", "return_token_ids", "return_perf_metrics")
_GUIDE_CONTROLS = (contract.GUIDED_DECODING_GUIDE_TYPE, contract.GUIDED_DECODING_GUIDE)  # --json-schema and its like
_NOT_STREAMED = ("num_return_sequences", "beam_width")
_IF_ASKED = ("token_ids", "log_probs", "cum_log_prob", "perf_metrics", "alternatives")
_SHORT = {"num_return_sequences": ("--n",)}
_TYPES: dict[str, type] = {"INT32": int, "INT64": int, "UINT64": int, "FP32": float, "BYTES": str}


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, without the usage in front of it."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_USAGE, f"{self.prog}: {message} (see {self.prog} --help)\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: without the program's name; default: those of the process.

    Returns:
        Exit code: 0, 1 if the request failed or the server is not ready, 2 for a bad argument, 130 after Ctrl-C.
    """
    options = _parser().parse_args(arguments)
    screen = Screen()
    try:
        with _client(options) as client:
            code: int = options.run(client, options, screen)
            screen.flush()
            return code
    except ConchClientError as error:
        screen.error(error)
        return EXIT_USAGE if isinstance(error, InvalidArgumentError) else EXIT_FAILED
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # as in `conch ask ... | head -1`
        screen.drop_output()
        return EXIT_FAILED
    except OSError as error:  # of the terminal, a pipe or a file: those of connections are ConchClientErrors
        screen.drop_output()
        screen.fail(f"conch: standard input or output broke: {error.strerror}")
        return EXIT_FAILED


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="conch", description="Ask a Conch server.")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND", parser_class=_Parser)
    server = _server_options()
    controls = _control_options()

    ask = commands.add_parser("ask", parents=[server, controls], help="ask once", description="Ask once.")
    ask.add_argument("prompt", metavar="PROMPT", help="what to ask; - reads it from standard input")
    ask.add_argument("--raw", action="store_true", help="send the prompt as it is, without the chat template")
    ask.add_argument("--system", metavar="TEXT", help="system message in front of the prompt")
    ask.add_argument("--no-stream", action="store_true", help="print the answer when it is whole")
    ask.add_argument("--json", action="store_true", help="print the whole answer and all that is known of it as JSON")
    guide = ask.add_argument_group("what the answer must be").add_mutually_exclusive_group()
    guide.add_argument("--json-schema", metavar="FILE", help="JSON that follows the schema in FILE")
    guide.add_argument("--regex", metavar="TEXT", help="a match of a regular expression")
    guide.add_argument("--grammar", metavar="FILE", help="made by the EBNF grammar in FILE")
    ask.set_defaults(run=_ask)

    chat = commands.add_parser("chat", parents=[server, controls], help="talk", description="Talk; /help inside.")
    chat.add_argument("--system", metavar="TEXT", help="system message")
    chat.set_defaults(run=lambda client, options, screen: run_chat(client, screen, options.system, _controls(options)))

    for name, run, text in (
        ("models", _models, "list the models of the server"),
        ("health", _health, "say whether the server can be asked; exit code 1 if not"),
        ("metrics", _metrics, "print the server's metrics"),
    ):
        command = commands.add_parser(name, parents=[server], help=text, description=text.capitalize() + ".")
        command.add_argument("--json", action="store_true", help="print JSON")
        command.set_defaults(run=run)
        if name == "metrics":
            command.add_argument("--short", action="store_true", help="print requests, TTFT and KV cache alone")
    return parser


def _server_options() -> _Parser:
    parser = _Parser(add_help=False)
    group = parser.add_argument_group("server")
    group.add_argument(
        "--url",
        metavar="HOST:PORT",
        help=f"default: {contract.HOST_VARIABLE} or {contract.DEFAULT_HOST}, and {contract.GRPC_PORT_VARIABLE} or "
        f"{contract.DEFAULT_GRPC_PORT} (with --protocol http: {contract.HTTP_PORT_VARIABLE} or "
        f"{contract.DEFAULT_HTTP_PORT})",
    )
    group.add_argument("--protocol", choices=("grpc", "http"), help="default: that of --url, else grpc")
    group.add_argument(
        "--metrics-url",
        metavar="HOST:PORT",
        help=f"default: the server's host and {contract.METRICS_PORT_VARIABLE} or {contract.DEFAULT_METRICS_PORT}",
    )
    group.add_argument("--model", metavar="NAME", default=contract.DEFAULT_MODEL, help="default: %(default)s")
    group.add_argument("--model-version", metavar="N", help="default: the one that the server chooses")
    group.add_argument(
        "--timeout-s", metavar="S", type=float, default=DEFAULT_TIMEOUT_S, help="of an answer; default: %(default)g"
    )
    group.add_argument("--header", metavar="NAME:VALUE", action="append", default=[], help="may be given many times")
    group.add_argument("--ca-file", metavar="PEM", help="certificates to trust; implies TLS")
    group.add_argument("--cert-file", metavar="PEM", help="the client's certificate; implies TLS")
    group.add_argument("--key-file", metavar="PEM", help="the client's key")
    return parser


def _control_options() -> _Parser:
    parser = _Parser(add_help=False)
    group = parser.add_argument_group("controls of the answer")
    for name, control in contract.CONTROLS.items():
        flags = [f"--{name.replace('_', '-')}", *_SHORT.get(name, ())]
        if name in _SWITCHES:
            group.add_argument(*flags, dest=name, action="store_true", default=None, help=control.doc)
        if control.dtype == "BOOL" or name in _GUIDE_CONTROLS:
            continue
        many = control.dims == (-1,)
        group.add_argument(
            *flags,
            dest=name,
            metavar="TEXT" if control.dtype == "BYTES" else "X" if control.dtype == "FP32" else "N",
            type=_TYPES[control.dtype],
            action="append" if many else "store",
            help=control.doc.replace("%", "%%") + (" May be given many times." if many else ""),
        )
    return parser


def _controls(options: argparse.Namespace) -> dict[str, Any]:
    return {name: value for name in contract.CONTROLS if (value := getattr(options, name, None)) is not None}


def _client(options: argparse.Namespace) -> SyncClient:
    scheme = options.url.split("://", 1)[0] if options.url and "://" in options.url else ""
    protocol = options.protocol or ("http" if scheme in ("http", "https") else "grpc")
    files = {name: getattr(options, name) for name in ("ca_file", "cert_file", "key_file")}
    settings = {
        "model": options.model,
        "version": options.model_version,
        "timeout_s": options.timeout_s,
        "headers": dict(_header(text) for text in options.header),
        "tls": Tls(**files) if any(files.values()) else None,
        "metrics_url": options.metrics_url,
    }
    return (HttpClient if protocol == "http" else Client)(options.url, **settings)


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        # Not shown, since what was meant as the value may be a secret.
        raise InvalidArgumentError("header must be NAME:VALUE, got " + ("no name" if colon else "no colon"))
    return name.strip(), value.strip()


def _ask(client: SyncClient, options: argparse.Namespace, screen: Screen) -> int:
    prompt = screen.read_all() if options.prompt == "-" else options.prompt
    if not prompt.strip():
        raise InvalidArgumentError(f"prompt must not be empty, got {prompt[:20]!r}")
    arguments: dict[str, Any] = {"prompt": prompt} if options.raw else {"messages": _chat(options.system, prompt)}
    if options.raw and options.system is not None:
        raise InvalidArgumentError("system must not be given with --raw: there is no chat then")
    arguments |= _controls(options) | _guide(options)
    if options.json:
        screen.line(json.dumps(_as_json(client.generate(**arguments)), ensure_ascii=False))
    elif options.no_stream or any((getattr(options, name) or 1) > 1 for name in _NOT_STREAMED):
        answers = client.generate(**arguments).sequences
        for number, answer in enumerate(answers, 1):
            screen.line(f"[{number}] {answer.text}" if len(answers) > 1 else answer.text)
    else:
        with client.stream(**arguments) as stream:
            try:
                screen.answer(stream)
            except CancelledError:
                if stream.is_cancelled:
                    return EXIT_INTERRUPTED
                raise
    return 0


def _guide(options: argparse.Namespace) -> dict[str, Any]:
    given = {name: text for name in ("json_schema", "regex", "grammar") if (text := getattr(options, name)) is not None}
    return {name: text if name == "regex" else _content(name, text) for name, text in given.items()}


def _content(name: str, file: str) -> str:
    try:
        return Path(file).read_text(encoding="utf-8")
    except OSError as error:
        reason = error.strerror or type(error).__name__
    except UnicodeDecodeError:
        reason = "it is not UTF-8"
    raise InvalidArgumentError(f"{name} must be a file that can be read, got {file!r}: {reason}")


def _as_json(completion: Completion) -> dict[str, Any]:
    """What is known of an answer; what was not asked for is left out."""
    known = asdict(completion)
    return {name: value for name, value in known.items() if name not in _IF_ASKED or value}


def _chat(system: str | None, prompt: str) -> list[Message]:
    start: list[Message] = [{"role": "system", "content": system}] if system is not None else []
    return [*start, {"role": "user", "content": prompt}]


def _models(client: SyncClient, options: argparse.Namespace, screen: Screen) -> int:
    models = client.models()
    if options.json:
        screen.line(json.dumps([asdict(m) for m in models]))
        return 0
    width = max((len(m.name) for m in models), default=0)
    for model in models:
        text = f"{model.name:<{width}}  {model.version or '-':>3}  {model.state or 'not loaded'}  {model.reason}"
        screen.line(text.rstrip())
    return 0


def _health(client: SyncClient, options: argparse.Namespace, screen: Screen) -> int:
    health = client.health()
    if options.json:
        screen.line(json.dumps({**asdict(health), "ok": health.ok}))
    elif health.detail:
        screen.fail(f"conch: not live: {health.detail}")
    else:
        for name, ready in health.models.items():
            screen.line(f"{name}: {'ready' if ready else 'not ready'}")
        if not health.ready:
            screen.line("the server as a whole: not ready (a model loads, or could not be loaded; see conch models)")
    return 0 if health.ok else EXIT_FAILED


def _metrics(client: SyncClient, options: argparse.Namespace, screen: Screen) -> int:
    metrics = client.metrics()
    if options.short:
        for line in short(metrics):
            screen.line(line)
        return 0
    screen.line(json.dumps([asdict(s) for s in metrics.samples]) if options.json else metrics.text.rstrip("\n"))
    return 0

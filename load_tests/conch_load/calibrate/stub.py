"""A server without a model whose times are known: Triton's gRPC and HTTP and the OpenAI API, next to no work for each
token. What the generator measures against it is the generator's own error.

``python -m conch_load.calibrate.stub --ttft-ms 100 --itl-ms 20`` prints its two ports (HTTP, gRPC) and serves until it
is ended; GET /stamps says when it sent what. One token is one letter.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from conch_load.calibrate.faults import Behaviour
from conch_load.calibrate.letters import id_of
from conch_load.machine import take_precedence

MODEL = "ensemble"
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
LETTER_IDS = {letter: id_of(letter) for letter in _LETTERS}


class Wire(Protocol):
    """How a protocol writes an answer."""

    def begin(self) -> None:
        """The answer starts: right after the request, before any token."""

    def piece(self, text: str, tokens: int, last: bool) -> None:
        """One response that says it has ``tokens`` tokens."""

    def end(self) -> None:
        """All is said."""

    def refuse(self, text: str) -> None:
        """The request fails."""

    def cut(self) -> None:
        """The connection, or the stream, breaks off."""


@dataclass
class Stamps:
    """What was sent for one request, by the monotonic clock: when it had arrived, and each token."""

    arrived_ns: int
    sent_ns: list[int] = field(default_factory=list)


class Stub:
    """Answers at a set pace.

    Args:
        behaviour: pace and faults.
    """

    def __init__(self, behaviour: Behaviour) -> None:
        self.behaviour = behaviour
        self.stamps: dict[str, Stamps] = {}
        self._number = 0
        self._first_s: float | None = None

    def answer(self, wire: Wire, request_id: str, tokens: int, *, whole: bool = False) -> None:
        """Answer a request that has arrived with ``tokens`` tokens, each due by the arrival: delays do not add up."""
        loop = asyncio.get_running_loop()
        self._number += 1
        number, now = self._number, loop.time()
        self._first_s = now if self._first_s is None else self._first_s
        if self.behaviour.fails(number):
            wire.refuse("UNAVAILABLE: the stub refuses this one on purpose")
            return
        stamps = self.stamps[request_id] = Stamps(time.monotonic_ns())
        wire.begin()
        first = now + self.behaviour.ttft_ms / 1e3
        if whole:
            last = first + (tokens - 1) * self.behaviour.itl_ms / 1e3
            self._at(last, lambda: self._whole(wire, stamps, number, tokens))
        else:
            self._at(first, lambda: self._token(wire, stamps, number, tokens, 0, first))

    def _token(self, wire: Wire, stamps: Stamps, number: int, tokens: int, sent: int, due_s: float) -> None:
        if self.behaviour.cuts(number) and sent >= tokens // 2:
            wire.cut()
            return
        last = sent == tokens - 1
        stamps.sent_ns.append(time.monotonic_ns())
        wire.piece(_LETTERS[sent % 26], 2 if last and self.behaviour.miscounts(number) else 1, last)
        if last:
            wire.end()
            return
        due_s += self.behaviour.itl_ms / 1e3
        self._at(due_s, lambda: self._token(wire, stamps, number, tokens, sent + 1, due_s))

    def _whole(self, wire: Wire, stamps: Stamps, number: int, tokens: int) -> None:
        if self.behaviour.cuts(number):
            wire.cut()
            return
        stamps.sent_ns.append(time.monotonic_ns())
        text = "".join(_LETTERS[i % 26] for i in range(tokens))
        wire.piece(text, tokens + self.behaviour.miscounts(number), True)
        wire.end()

    def _at(self, due_s: float, call: Callable[[], None]) -> None:
        assert self._first_s is not None
        asyncio.get_running_loop().call_at(self.behaviour.shifted(due_s, self._first_s), call)

    def stamps_json(self) -> bytes:
        """All stamps, for GET /stamps."""
        return json.dumps({name: dataclasses.asdict(one) for name, one in self.stamps.items()}).encode()


async def serve(behaviour: Behaviour, say: Callable[[int, int], None]) -> None:
    """Serve until cancelled; ``say`` gets the ports of HTTP and gRPC."""
    from conch_load.calibrate.stub_grpc import GrpcConnection
    from conch_load.calibrate.stub_http import HttpConnection

    loop, stub = asyncio.get_running_loop(), Stub(behaviour)
    http = await loop.create_server(lambda: HttpConnection(stub), "127.0.0.1", 0)
    grpc = await loop.create_server(lambda: GrpcConnection(stub), "127.0.0.1", 0)
    async with http, grpc:
        say(http.sockets[0].getsockname()[1], grpc.sockets[0].getsockname()[1])
        await asyncio.Event().wait()


def main(argv: Sequence[str] | None = None) -> int:
    """Command line: a flag for each field of Behaviour."""
    parser = argparse.ArgumentParser(prog="stub", description=__doc__)
    for one in dataclasses.fields(Behaviour):
        default = one.default
        if isinstance(default, bool):
            parser.add_argument(f"--{one.name.replace('_', '-')}", type=int, choices=(0, 1), default=int(default))
        else:
            parser.add_argument(f"--{one.name.replace('_', '-')}", type=type(default), default=default)
    values = vars(parser.parse_args(argv))
    take_precedence()
    behaviour = Behaviour(**{**values, "role_chunk": bool(values["role_chunk"])})
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(behaviour, lambda http, grpc: print(http, grpc, flush=True)))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Receipts: how the engine learns that what it sends still reaches the detokenizer.

Triton tells a step of an ensemble of a cancel only if the step starts after it. The engine's step is under way for the
whole answer, so the engine never hears that the client has gone. The detokenizer does feel it: its requests are no
longer scheduled. So now and then a response asks for a receipt, and the detokenizer writes one. Where it is missing,
nobody reads the answer.

A receipt costs no call: it is a number in memory that both processes map. The engine makes the memory and describes it
in the tensor ``receipt``; the detokenizer opens it through /proc, so there is no file to clean up.
"""

from __future__ import annotations

import mmap
import os
import secrets
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

_NAME = "conch-receipts"
_SLOTS = 4096  # calls that can be followed at a time; those beyond run on without
_BYTES = 8 * _SLOTS


@dataclass
class Receipt:
    """One place for receipts, lent to a call for its life.

    Attributes:
        slot: its place in the memory.
        serial: of the last receipt that was asked for; 0: none was.
    """

    slot: int
    serial: int = 0


class ReceiptBook:
    """The engine's side."""

    def __init__(self) -> None:
        self._fd = os.memfd_create(_NAME)
        os.ftruncate(self._fd, _BYTES)
        self._words = np.frombuffer(mmap.mmap(self._fd, _BYTES), dtype=np.int64)
        self._nonce = secrets.randbits(62) + 1
        self._words[0] = self._nonce
        self._free = list(range(1, _SLOTS))
        self._serial = 0  # never used twice, so that a late receipt of a slot's last user is not taken for a new one
        self._lock = threading.Lock()

    def lend(self) -> Receipt | None:
        """A place for a call; None: all are taken."""
        with self._lock:
            return Receipt(self._free.pop()) if self._free else None

    def give_back(self, receipt: Receipt) -> None:
        """End of the call."""
        with self._lock:
            self._free.append(receipt.slot)

    def ask(self, receipt: Receipt) -> list[int]:
        """Ask for the next receipt.

        Returns:
            What the detokenizer needs to write it: the value of the tensor ``receipt``.
        """
        with self._lock:
            self._serial += 1
            receipt.serial = self._serial
        return [os.getpid(), self._fd, self._nonce, receipt.slot, receipt.serial]

    def has(self, receipt: Receipt) -> bool:
        """Whether the last one that was asked for has come."""
        return int(self._words[receipt.slot]) == receipt.serial


class ReceiptWriter:
    """The detokenizer's side: keeps the memory of the engine that asked last."""

    def __init__(self) -> None:
        self._nonce = 0
        self._words = np.zeros(0, dtype=np.int64)

    def write(self, asked: Sequence[int]) -> None:
        """Write a receipt.

        Args:
            asked: value of the tensor ``receipt``. One that no engine made has no effect: whoever may call the
                detokenizer may send anything.
        """
        pid, fd, nonce, slot, serial = asked
        if nonce != self._nonce and not self._open(pid, fd, nonce):
            return
        if 0 < slot < len(self._words):
            self._words[slot] = serial

    def _open(self, pid: int, fd: int, nonce: int) -> bool:
        path = Path(f"/proc/{pid}/fd/{fd}")
        try:
            if str(path.readlink()) != f"/memfd:{_NAME} (deleted)":
                return False
            ours = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            words = np.frombuffer(mmap.mmap(ours, _BYTES), dtype=np.int64)
        finally:
            os.close(ours)
        if words[0] != nonce:
            return False
        self._nonce, self._words = nonce, words
        return True

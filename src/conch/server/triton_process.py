"""One tritonserver with its stubs: flags, start, signals, and cleaning up after it."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

from conch.bound import bound
from conch.contract import UNARY_IN_FLIGHT, ensembles
from conch.server import procfs
from conch.server.leftovers import Stub, as_stub, kill_group, remove_leftovers
from conch.server.locate import Installation
from conch.server.probe import ADMIN_HEADER
from conch.server.procfs import Process
from conch.server.settings import Settings
from conch.trtllm.tensors import BACKEND_MODEL

# Everything that changes what is served or reads what others send; inference, health and statistics stay open.
RESTRICTED_APIS = "model-repository,shared-memory,trace,logging"
_SPARE_THREADS = 8


def flags(settings: Settings, backend_dir: Path, admin_key: str, twins: bool, backend_slots: int = 0) -> list[str]:
    """Flags of tritonserver 2.51.

    Only the ensembles are named: Triton loads what they are made of, in the versions that they pin. What their engine
    asks for is no part of them: it is named, too.
    """
    # Threads of each Python model for what it asks of others. unary blocks one for every request in flight, and so does
    # llama_engine over a backend of Triton's; the rest is for those that end one.
    threads = max(UNARY_IN_FLIGHT if twins else 0, backend_slots)
    return [
        *([f"--backend-config=python,thread-pool-size={threads + _SPARE_THREADS}"] if threads else []),
        f"--model-repository={settings.repository}",
        f"--backend-directory={backend_dir}",
        "--model-control-mode=explicit",
        *([f"--load-model={BACKEND_MODEL}"] if backend_slots else []),
        *(f"--load-model={ensemble.name}" for ensemble in ensembles(twins)),
        "--disable-auto-complete-config",  # the configs are complete; one that is not is a fault to be seen
        f"--http-address={settings.host}",
        f"--grpc-address={settings.host}",
        f"--metrics-address={settings.host}",
        f"--http-port={settings.http_port}",
        f"--grpc-port={settings.grpc_port}",
        f"--metrics-port={settings.metrics_port}",
        f"--http-restricted-api={RESTRICTED_APIS}:{ADMIN_HEADER}={admin_key}",
        f"--grpc-restricted-protocol={RESTRICTED_APIS}:{ADMIN_HEADER}={admin_key}",
        # Long answers may be silent on the wire; clients that ping every 10 s must not be thrown out for it.
        "--grpc-http2-min-recv-ping-interval-without-data=5000",
        "--grpc-http2-max-pings-without-data=0",
        # A client that vanished without a word is noticed in a minute and a half; the default is two hours.
        "--grpc-keepalive-time=60000",
        "--grpc-keepalive-permit-without-calls=1",
        "--allow-gpu-metrics=false",
        "--pinned-memory-pool-byte-size=0",  # of use with a GPU alone
        f"--exit-timeout-secs={settings.drain_timeout_s}",
        "--log-format=ISO8601",
    ]


class TritonProcess:
    """A started tritonserver, leader of a process group and session of its own.

    If the thread that made it ends, however it ends, tritonserver gets SIGTERM and drains.

    Args:
        settings: where it listens.
        installation: what to start.
        backend_dir: for --backend-directory.
        admin_key: for the restricted APIs.
        log: appended to.
        twins, backend_slots: of the release.
    """

    def __init__(
        self,
        settings: Settings,
        installation: Installation,
        backend_dir: Path,
        admin_key: str,
        log: Path,
        twins: bool,
        backend_slots: int = 0,
    ) -> None:
        command = flags(settings, backend_dir, admin_key, twins, backend_slots)
        with log.open("ab") as output:
            self._log_offset_bytes = output.tell()
            self._popen = subprocess.Popen(
                bound([str(installation.tritonserver), *command]),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=installation.environment(dict(os.environ)),
                start_new_session=True,
            )
        self._log = log
        self._ports = tuple(settings.ports.values())
        self.process = procfs.process(self._popen.pid) or Process(self._popen.pid, 0)
        self.regions: set[str] = set()

    def exit_code(self) -> int | None:
        """As of subprocess: negative for a signal, None while it runs."""
        return self._popen.poll()

    def listens(self) -> bool:
        """Whether each port is its own: whoever took one since it was checked would answer, too."""
        return all(procfs.listens(self.process.pid, port) for port in self._ports)

    def log_text(self) -> str:
        """What it logged so far; of a log that was cut since, what it logged after that."""
        with self._log.open("rb") as file:
            if os.fstat(file.fileno()).st_size >= self._log_offset_bytes:
                file.seek(self._log_offset_bytes)
            return file.read().decode(errors="replace")

    def stubs(self) -> list[Stub]:
        """Its living stubs; their shared memory is remembered for remove()."""
        found = [stub for child in procfs.children(self.process.pid) if (stub := as_stub(child)) is not None]
        self.regions.update(stub.region for stub in found)
        return found

    def drain(self) -> None:
        """Ask it to finish what is in flight, take nothing new, and exit."""
        if self._popen.poll() is None:
            self._popen.send_signal(signal.SIGTERM)

    def remove(self) -> None:
        """Kill what is left of it, its stubs and what they started, and remove their shared memory."""
        if self._popen.poll() is None:
            self.stubs()
        # Also if it is gone: the engine's process has its memory until it has ended, and the next one needs as much.
        kill_group(self.process.pid)
        self._popen.wait()
        remove_leftovers(self.regions)

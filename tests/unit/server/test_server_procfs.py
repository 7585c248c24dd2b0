import os
import socket
import subprocess
import sys

import pytest
from server_processes import started, wait_until

from conch.bound import bound
from conch.server import procfs


@pytest.fixture
def listening() -> socket.socket:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        one.listen()
        yield one  # type: ignore[misc]


def test_a_listener_is_found_with_its_command(listening: socket.socket) -> None:
    port = listening.getsockname()[1]
    found = procfs.listener(port)
    assert found is not None
    assert found.pid == os.getpid()
    assert procfs.arguments(found.pid)[0] == sys.orig_argv[0]


def test_a_taken_port_cannot_be_bound_even_with_reuse(listening: socket.socket) -> None:
    port = listening.getsockname()[1]
    assert not procfs.can_bind("127.0.0.1", port)
    assert not procfs.can_bind("0.0.0.0", port)
    listening.close()
    assert procfs.can_bind("127.0.0.1", port)
    assert procfs.listener(port) is None


def test_a_port_shared_by_its_holder_is_taken() -> None:
    with socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        one.bind(("127.0.0.1", 0))
        one.listen()
        assert not procfs.can_bind("127.0.0.1", one.getsockname()[1])


def test_a_port_whose_last_connection_winds_down_is_free() -> None:
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):
            accepted, _ = server.accept()
            accepted.close()  # the server closes first: TIME_WAIT stays on its side
    assert procfs.can_bind("127.0.0.1", port)


def test_an_address_of_another_machine_is_an_error() -> None:
    with pytest.raises(OSError, match="Cannot assign requested address"):
        procfs.can_bind("192.0.2.1", 8000)


def test_children_live_and_die() -> None:
    with started([sys.executable, "-c", "import time; time.sleep(600)"]) as child:
        found = procfs.process(child.pid)
        assert found is not None
        assert found in procfs.children(os.getpid())
        assert found.alive
        assert not procfs.Process(child.pid, found.start_ticks - 1).alive
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert not found.alive  # a zombie
        assert found not in procfs.children(os.getpid())
    assert procfs.process(child.pid) is None
    assert procfs.arguments(child.pid) == []


PARENT = """
import subprocess, sys, time
from conch.bound import bound
child = subprocess.Popen(bound([sys.executable, "-c", "import time; time.sleep(600)"]))
print(child.pid, flush=True)
time.sleep(600)
"""


def test_a_bound_process_ends_with_its_parent() -> None:
    with started([sys.executable, "-c", PARENT]) as parent:
        assert parent.stdout is not None
        child = procfs.process(int(parent.stdout.readline()))
        assert child is not None
        wait_until(lambda: procfs.arguments(child.pid)[1] == "-c", 60)  # the command itself runs
        parent.kill()
        wait_until(lambda: not child.alive, 60)


def test_a_command_bound_to_a_parent_that_is_gone_does_not_run() -> None:
    command = bound([sys.executable, "-c", "print('ran')"])
    done = subprocess.run(["sh", "-c", '"$@" & wait', "sh", *command], capture_output=True, check=False)
    assert done.stdout == b""

from pathlib import Path

import pytest
from server_processes import wait_until

from conch.server.logs import Copier, Follower, Rotator


def append(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)


def test_what_is_new_is_read_once(tmp_path: Path) -> None:
    path = tmp_path / "log"
    follower = Follower(path)
    assert follower.read() == ""
    append(path, b"one\n")
    assert follower.read() == "one\n"
    assert follower.read() == ""
    append(path, b"two\nthr")
    assert follower.read() == "two\nthr"


@pytest.mark.parametrize(
    ("lines", "expected"),
    [(0, ""), (1, "c\n"), (2, "b\nc\n"), (3, "a\nb\nc\n"), (99, "a\nb\nc\n"), (None, "a\nb\nc\n")],
)
def test_the_last_lines(tmp_path: Path, lines: int | None, expected: str) -> None:
    path = tmp_path / "log"
    append(path, b"a\nb\nc\n")
    assert Follower(path, lines=lines).read() == expected


def test_the_last_lines_of_a_long_file(tmp_path: Path) -> None:
    path = tmp_path / "log"
    append(path, b"".join(b"%06d\n" % n for n in range(50_000)))
    lines = Follower(path, lines=20_000).read().splitlines()
    assert lines == [f"{n:06d}" for n in range(30_000, 50_000)]


def test_a_last_line_without_its_end_counts(tmp_path: Path) -> None:
    path = tmp_path / "log"
    append(path, b"a\nb\nc")
    assert Follower(path, lines=2).read() == "b\nc"


def test_a_character_cut_in_two_comes_whole(tmp_path: Path) -> None:
    path = tmp_path / "log"
    follower = Follower(path)
    data = "é\n".encode()
    append(path, data[:1])
    first = follower.read()
    append(path, data[1:])
    assert first + follower.read() == "é\n"


def test_a_replaced_file_is_read_from_its_start(tmp_path: Path) -> None:
    path = tmp_path / "log"
    append(path, b"old and long\n")
    follower = Follower(path)
    follower.read()
    path.rename(tmp_path / "log.1")
    append(path, b"new\n")
    assert follower.read() == "new\n"


def test_a_shortened_file_is_read_from_its_start(tmp_path: Path) -> None:
    path = tmp_path / "log"
    append(path, b"old and long\n")
    follower = Follower(path)
    follower.read()
    path.write_bytes(b"new\n")
    assert follower.read() == "new\n"


def test_a_copied_log_comes_in_whole_lines_and_its_file_stays_small(tmp_path: Path) -> None:
    path = tmp_path / "log"
    append(path, b"of the last time\n")
    said: list[str] = []
    with path.open("ab") as writer, Copier(path, said.append, max_bytes=100):
        for number in range(40):
            writer.write(b"line %02d\nhalf" % number)
            writer.flush()
            if number == 20:
                wait_until(lambda: path.stat().st_size == 0, timeout_s=10)
    lines = "\n".join(said).split("\n")
    assert lines == ["line 00", *(f"halfline {n:02d}" for n in range(1, 40)), "half"]
    assert path.stat().st_size < 400


def test_a_log_that_never_comes_is_no_fault(tmp_path: Path) -> None:
    said: list[str] = []
    with Copier(tmp_path / "log", said.append):
        pass
    assert said == []


def test_a_log_that_grows_large_is_set_aside_while_it_is_written(tmp_path: Path) -> None:
    path, former = tmp_path / "log", tmp_path / "log.1"
    with path.open("ab") as writer, Rotator(path, former, max_bytes=100):
        for turn in range(3):
            writer.write(b"line %d of a turn\n" % turn * 8)
            writer.flush()
            wait_until(lambda: path.stat().st_size == 0, timeout_s=10)
            assert former.read_bytes() == b"line %d of a turn\n" % turn * 8
        writer.write(b"the last\n")
    assert path.read_bytes() == b"the last\n"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["log", "log.1"]


def test_a_log_is_cut_where_it_cannot_be_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "log"
    append(path, b"x" * 101)
    with Rotator(path, tmp_path / "nowhere" / "log.1", max_bytes=100):
        pass
    assert path.read_bytes() == b""

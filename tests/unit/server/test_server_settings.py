from pathlib import Path

import pytest

from conch.errors import InvalidArgumentError
from conch.server.settings import settings_from_environment


def test_defaults() -> None:
    settings = settings_from_environment({})
    assert (settings.host, settings.http_port, settings.grpc_port, settings.metrics_port) == (
        "127.0.0.1", 8000, 8001, 8002,
    )  # fmt: skip
    assert settings.repository.is_absolute()
    assert settings.run_dir == Path.cwd() / ".run"


def test_an_empty_variable_is_an_unset_one() -> None:
    assert settings_from_environment({"CONCH_HTTP_PORT": "", "CONCH_HOST": ""}).http_port == 8000


def test_values_are_taken() -> None:
    environment = {"CONCH_HOST": "0.0.0.0", "CONCH_HTTP_PORT": "1", "CONCH_GRPC_PORT": "65535"}
    settings = settings_from_environment(environment)
    assert (settings.host, settings.http_port, settings.grpc_port) == ("0.0.0.0", 1, 65535)
    assert settings.connect_host == "127.0.0.1"


@pytest.mark.parametrize("value", ["0", "65536", "-1", "8000.0", "http", " 8000", "8 000", "٨٠٠٠", "9" * 5000, "0x50"])
@pytest.mark.parametrize("variable", ["CONCH_HTTP_PORT", "CONCH_GRPC_PORT", "CONCH_METRICS_PORT"])
def test_a_bad_port_names_variable_rule_and_value(variable: str, value: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        settings_from_environment({variable: value})
    assert caught.value.message == f"{variable} must be a port number in [1, 65535], got {value!r}"


def test_two_equal_ports_are_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="CONCH_GRPC_PORT must differ from CONCH_HTTP_PORT, got 8001"):
        settings_from_environment({"CONCH_HTTP_PORT": "8001"})


@pytest.mark.parametrize("value", ["::1", "256.0.0.1", "example", "127.0.0.1:8000", "1"])
def test_a_bad_host_is_refused(value: str) -> None:
    with pytest.raises(InvalidArgumentError, match="CONCH_HOST must be an IPv4 address or localhost"):
        settings_from_environment({"CONCH_HOST": value})

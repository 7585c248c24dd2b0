"""Models, health, metrics, TLS."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from pathlib import Path

import grpc
import pytest
from askers import Asker
from conch_client import (
    InternalError,
    InvalidArgumentError,
    ModelInfo,
    Retry,
    Sample,
    Tls,
    UnavailableError,
)
from conch_client.http_wire import EventParser
from conch_client.metrics import parse_metrics, short
from fake_servers import METRICS, GrpcServer, HttpServer
from hypothesis import given
from hypothesis import strategies as st
from property_settings import examples


def test_models(asker) -> None:
    assert asker.call("models") == [
        ModelInfo("ensemble", "1", "READY", ""),
        ModelInfo("llama_pipeline", "1", "UNAVAILABLE", "unloaded"),
        ModelInfo("tokenizer", "1", "READY", ""),
    ]


def test_models_of_a_server_that_shows_its_repository_to_administrators_alone(asker) -> None:
    asker.plans.restricted = True
    models = asker.call("models", client={"model": "mine"})
    assert [(m.name, m.version, m.state) for m in models] == [
        ("tokenizer", "", "UNAVAILABLE"),
        ("llama_engine", "", "UNAVAILABLE"),
        ("detokenizer", "", "UNAVAILABLE"),
        ("ensemble", "1", "READY"),
        ("ensemble", "2", "READY"),
        ("llama_pipeline", "1", "READY"),
        ("llama_pipeline", "2", "READY"),
        ("mine", "", "UNAVAILABLE"),
    ]


def test_health(asker) -> None:
    health = asker.call("health")
    assert (health.live, health.ready, health.ok) == (True, True, True)
    assert health.models == {"ensemble": True, "llama_pipeline": True}
    asker.plans.ready = False
    health = asker.call("health")
    assert (health.ready, health.ok) == (False, True), "a model that loads does not stop the others"
    asker.plans.ready_models = ("ensemble",)
    health = asker.call("health")
    assert (health.models, health.ok) == ({"ensemble": True, "llama_pipeline": False}, False)
    asker.plans.ready_models, asker.plans.live = ("ensemble", "llama_pipeline"), False
    assert not asker.call("health").ok


def test_the_clients_own_model_is_part_of_health(asker) -> None:
    health = asker.call("health", client={"model": "mine"})
    assert health.models["mine"] is False
    assert not health.ok


def test_metrics(asker) -> None:
    server = HttpServer()
    metrics = asker.call("metrics", client={"metrics_url": server.url})
    assert metrics.text == METRICS
    assert metrics.samples[0] == Sample("nv_inference_request_success", {"model": "ensemble", "version": "1"}, 9)
    assert metrics.samples[2] == Sample("conch_ttft_ms_bucket", {"le": "+Inf", "note": 'a "b\\c", d'}, 300)
    assert metrics.total("nv_inference_request_success") == 20
    assert metrics.total("nv_inference_request_success", model="tokenizer") == 11
    assert metrics.total("no_such_metric") == 0
    server.close()
    with pytest.raises(UnavailableError, match=f"cannot reach {server.url}: Connection refused"):
        asker.call("metrics", client={"metrics_url": server.url})


@pytest.mark.parametrize("line", ["<html>", "name", "name x", "a-b 1"])
def test_what_is_no_metric_is_an_error(line) -> None:
    with pytest.raises(InternalError, match="metrics must be Prometheus text, got the line"):
        parse_metrics(line)


@examples(100)
@given(st.lists(st.text(st.characters(exclude_characters="\n\r", exclude_categories=("Cs",)))), st.data())
def test_events_do_not_depend_on_where_they_are_cut(texts, data) -> None:
    body = "".join(f"data: {text}\n\n" for text in texts).encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(body)))))
    parser = EventParser()
    events = []
    for start, end in zip([0, *cuts], [*cuts, len(body)], strict=True):
        events += parser.feed(body[start:end])
    parser.check_end()
    assert [event.decode() for event in events] == texts


# --- TLS ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with ca.pem, and server, client and other certificates: <name>.pem and <name>.key."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("needs the command openssl")
    folder = tmp_path_factory.mktemp("keys")
    new = [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]

    def run(*arguments: str) -> None:
        subprocess.run([*new, *arguments], cwd=folder, check=True, capture_output=True)

    for name in ("ca", "other"):
        sign = ["-addext", "keyUsage=critical,keyCertSign"]
        run("-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.pem", *sign)
    for name in ("server", "client"):
        signed = ["-CA", "ca.pem", "-CAkey", "ca.key", "-addext", "subjectAltName=DNS:localhost"]
        extra = ["-addext", "basicConstraints=critical,CA:FALSE", "-addext", "keyUsage=critical,digitalSignature"]
        run("-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.pem", *signed, *extra)
    return folder


def _secure_server(kind: str, keys: Path, ask_client: bool):
    if kind.startswith("grpc"):
        pair = ((keys / "server.key").read_bytes(), (keys / "server.pem").read_bytes())
        roots = (keys / "ca.pem").read_bytes() if ask_client else None
        return GrpcServer(grpc.ssl_server_credentials([pair], roots, ask_client), "localhost:0")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(keys / "server.pem", keys / "server.key")
    if ask_client:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(keys / "ca.pem")
    return HttpServer(context)


ONCE = Retry(max_attempts=1)


@pytest.mark.parametrize("kind", ["grpc", "grpc_aio", "http", "http_aio"])
def test_tls(kind, keys) -> None:
    server = _secure_server(kind, keys, ask_client=False)
    good = Asker(kind, server.url, tls=Tls(ca_file=str(keys / "ca.pem")), retry=ONCE)
    assert good.stream("x").text == good.generate("x").text == "ok"
    other = Asker(kind, server.url, tls=Tls(ca_file=str(keys / "other.pem")), retry=ONCE)
    with pytest.raises(UnavailableError):
        other.generate("x")
    assert len(server.plans.seen) == 2
    server.close()


# On Python 3.10, asyncio leaves the transport of a handshake that failed to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("kind", ["grpc", "grpc_aio", "http", "http_aio"])
def test_tls_with_a_client_certificate(kind, keys) -> None:
    server = _secure_server(kind, keys, ask_client=True)
    ca, cert, key = (str(keys / name) for name in ("ca.pem", "client.pem", "client.key"))
    assert Asker(kind, server.url, tls=Tls(ca, cert, key)).generate("x").text == "ok"
    with pytest.raises(UnavailableError):
        Asker(kind, server.url, tls=Tls(ca), retry=ONCE).generate("x")
    server.close()


@pytest.mark.parametrize("kind", ["grpc", "grpc_aio", "http", "http_aio"])
def test_files_that_cannot_be(kind, keys) -> None:
    good, key = str(keys / "client.pem"), str(keys / "client.key")
    broken = keys / "broken.pem"
    broken.write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    for tls, message in (
        (Tls(ca_file="no.pem"), "ca_file must be a file that can be read, got 'no.pem': No such file or directory"),
        (Tls(ca_file=str(keys)), f"ca_file must be a file that can be read, got '{keys}': Is a directory"),
        (Tls(ca_file=key), f"ca_file must hold certificates in PEM, got '{key}': no certificate or crl found"),
        (Tls(ca_file=str(broken)), f"ca_file must hold certificates in PEM, got '{broken}': no valid PEM"),
        (Tls(None, str(broken), key), f"cert_file must hold certificates in PEM, got '{broken}': no valid PEM"),
        (Tls(None, good, str(keys / "other.key")),
         "key_file must hold the key of cert_file, in PEM and without a passphrase, "
         f"got '{keys}/other.key': key values mismatch"),
        (Tls(None, good, str(broken)),
         "key_file must hold the key of cert_file, in PEM and without a passphrase, "
         f"got '{broken}': no valid PEM"),
    ):  # fmt: skip
        with pytest.raises(InvalidArgumentError) as caught:
            Asker(kind, "h:1", tls=tls).make()
        assert caught.value.message == message
    with pytest.raises(InvalidArgumentError, match="cert_file and key_file must be given together"):
        Asker(kind, "h:1", tls=Tls(cert_file=good)).make()
    scheme = "grpc" if kind.startswith("grpc") else "http"
    with pytest.raises(InvalidArgumentError, match=f"url must start with {scheme}s://"):
        Asker(kind, f"{scheme}://h:1", tls=Tls()).make()


@pytest.mark.parametrize("kind", ["grpc", "grpc_aio", "http", "http_aio"])
def test_a_file_that_may_not_be_read(kind, keys, monkeypatch) -> None:
    def refuse(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(Path, "read_bytes", refuse)  # root may read everything
    with pytest.raises(InvalidArgumentError, match=r"cert_file must be a file .*client\.pem': Permission denied"):
        Asker(kind, "h:1", tls=Tls(None, str(keys / "client.pem"), str(keys / "client.key"))).make()


def test_tls_files_are_read_once(keys) -> None:
    server = _secure_server("http", keys, ask_client=False)
    own = keys / "own.pem"
    shutil.copy(keys / "ca.pem", own)
    with Asker("http", server.url, tls=Tls(str(own))).make() as client:
        own.unlink()
        assert client.generate("x").text == "ok"
        server.drop_connections()
        assert client.generate("x").text == "ok"
    server.close()


def test_a_path_in_front() -> None:
    server = HttpServer()
    for kind in ("http", "http_aio"):
        Asker(kind, f"http://{server.url}/triton/").generate("x")
        assert server.plans.seen[-1].path == "/triton/v2/models/ensemble/generate"
    server.close()


ENGINE_METRICS = """conch_num_requests_running{model="m",pid="1"} 3
conch_num_requests_running{model="m",pid="2"} 1
conch_num_requests_waiting{model="m",pid="1"} 2
conch_kv_cache_usage_perc{model="m",pid="1"} 0.25
conch_time_to_first_token_seconds_bucket{pid="1",le="0.1"} 5
conch_time_to_first_token_seconds_bucket{pid="2",le="0.1"} 1
conch_time_to_first_token_seconds_bucket{pid="1",le="0.2"} 8
conch_time_to_first_token_seconds_bucket{pid="2",le="0.2"} 2
conch_time_to_first_token_seconds_bucket{pid="1",le="+Inf"} 8
conch_time_to_first_token_seconds_bucket{pid="2",le="+Inf"} 2
"""


def test_metrics_in_short() -> None:
    assert short(parse_metrics(ENGINE_METRICS)) == [
        "requests  4 running, 2 waiting", "TTFT      p50 83 ms, p95 188 ms", "KV cache  25 % in use",
    ]  # fmt: skip
    fresh = "\n".join(line.rsplit(" ", 1)[0] + " 0" for line in ENGINE_METRICS.splitlines())
    assert short(parse_metrics(fresh))[1] == "TTFT      p50 -, p95 -"
    assert short(parse_metrics("nv_x 1")) == ["no metrics of an engine"]


def test_the_names_are_those_of_the_server() -> None:
    from conch import metric_table as table

    used = {sample.name.removesuffix("_bucket") for sample in parse_metrics(ENGINE_METRICS).samples}
    assert used == {table.RUNNING.name, table.WAITING.name, table.KV_USAGE.name, table.TTFT.name}


@pytest.mark.parametrize(("q", "seconds"), [(0, 0.0), (0.3, 0.05), (0.6, 0.1), (0.8, 0.15), (1, 0.2)])
def test_quantiles(q: float, seconds: float) -> None:
    metrics = parse_metrics(ENGINE_METRICS)
    assert metrics.quantile("conch_time_to_first_token_seconds", q) == pytest.approx(seconds)


def test_a_quantile_beyond_the_largest_bound_is_that_bound() -> None:
    assert parse_metrics('x_bucket{le="1"} 1\nx_bucket{le="+Inf"} 5').quantile("x", 0.9) == 1

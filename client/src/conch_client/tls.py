"""The files of a Tls, read and checked when a client is made: a bad one is an error there, the same on every way."""

from __future__ import annotations

import ssl
from pathlib import Path

from conch_client.errors import InvalidArgumentError
from conch_client.types import Tls


def read_file(tls: Tls, name: str) -> bytes | None:
    """Content of one of the files, None if it was not given.

    Args:
        tls: the files.
        name: ca_file, cert_file or key_file.

    Raises:
        InvalidArgumentError: it cannot be read.
    """
    path: str | None = getattr(tls, name)
    if path is None:
        return None
    try:
        return Path(path).read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        reason = getattr(error, "strerror", None) or str(error)
        raise InvalidArgumentError(f"{name} must be a file that can be read, got {path!r}: {reason}") from None


def ssl_context(tls: Tls) -> ssl.SSLContext:
    """Python's TLS settings for the files.

    Raises:
        InvalidArgumentError: a file that cannot be read, or does not hold what it should.
    """
    if (tls.cert_file is None) != (tls.key_file is None):
        raise InvalidArgumentError("cert_file and key_file must be given together")
    for name in ("ca_file", "cert_file", "key_file"):
        read_file(tls, name)
    for name in ("ca_file", "cert_file"):
        _check_certificates(name, getattr(tls, name))
    context = ssl.create_default_context(cafile=tls.ca_file)
    if tls.cert_file is not None:
        try:
            context.load_cert_chain(tls.cert_file, tls.key_file, password=lambda: "")  # else OpenSSL asks the terminal
        except OSError as error:
            raise InvalidArgumentError(
                f"key_file must hold the key of cert_file, in PEM and without a passphrase, got {tls.key_file!r}: "
                f"{_reason(error)}"
            ) from None
    return context


def _check_certificates(name: str, path: str | None) -> None:
    if path is None:
        return
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except OSError as error:
        raise InvalidArgumentError(f"{name} must hold certificates in PEM, got {path!r}: {_reason(error)}") from None


def _reason(error: OSError) -> str:
    """OpenSSL's words for it, as far as it has some: often it knows no more than that its reader of PEM failed."""
    known = getattr(error, "reason", None)
    return known.replace("_", " ").lower() if known else "no valid PEM"

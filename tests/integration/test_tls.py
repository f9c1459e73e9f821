"""The broker and the database by TLS, as docs/install.md says: a certificate that is not trusted is said in a sentence,
and with one that is, tasks run.
"""

import asyncio
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from urllib.parse import unquote

import pytest
import trustme

from tests import plain
from tests.servers import Postgres, RabbitMQ, Valkey
from tests.system import System, nothing_is_left
from tests.tls import Connect, tls_in_front_of

HOST, ADDRESS = "localhost", "127.0.0.1"  # the client of RabbitMQ takes the one for the other


@dataclass
class Authority:
    """A certificate authority that the clients trust, and one that they do not know."""

    folder: Path
    trusted: trustme.CA = field(default_factory=trustme.CA)
    unknown: trustme.CA = field(default_factory=trustme.CA)

    def __post_init__(self) -> None:
        self.trusted.cert_pem.write_to_path(str(self.file))

    @property
    def file(self) -> Path:
        return self.folder / "ca.pem"

    def certificates(self) -> tuple[trustme.LeafCert, trustme.LeafCert, trustme.LeafCert]:
        """The right one, one of an authority that nobody knows, and one of another host."""
        return (
            self.trusted.issue_cert(HOST, ADDRESS),
            self.unknown.issue_cert(HOST, ADDRESS),
            self.trusted.issue_cert("elsewhere.example.org"),
        )


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@contextmanager
def ports_of(connect: Connect, authority: Authority, *, postgres: bool = False) -> Iterator[list[int]]:
    """A port by TLS for each of the certificates."""
    with ExitStack() as stack:
        yield [
            stack.enter_context(tls_in_front_of(connect, certificate, postgres=postgres))
            for certificate in authority.certificates()
        ]


def problem(system: System, what: str, **environment: str) -> str:
    """The sentence of `handbell status` about the broker or the database, or nothing."""
    said = System(system.folder, system.environment | environment).manage("handbell", "status")
    assert said.returncode == 0, said.stderr
    return "".join(line for line in said.stdout.splitlines() if line.startswith(f"Problem: The {what} "))


def add() -> int:
    return int(plain.add.delay(2, 3).get(timeout=plain.SECONDS))


def runs_a_task(system: System) -> bool:
    with system.worker("-Q", "high,cpu,io", "-c", "1", "--include=tests.plain"):
        return bool(system.call(add) == 5)


def test_redis(sqlite_system: System, authority: Authority) -> None:
    valkey = Valkey()
    connect = partial(asyncio.open_connection, ADDRESS, valkey.port)
    urls = f"rediss://{HOST}:{{}}/0?ssl_cert_reqs=required&ssl_ca_certs={authority.file}"
    try:
        with ports_of(connect, authority) as ports:
            right, unknown, elsewhere = (urls.format(port) for port in ports)
            sqlite_system.environment |= {"SECRET_KEY": "only for tests " * 4, "CELERY_BROKER_URL": right}

            said = problem(sqlite_system, "broker", CELERY_BROKER_URL=unknown)
            assert "certificate verify failed: unable to get local issuer certificate" in said
            assert said.endswith("or correct CELERY_BROKER_URL.")
            said = problem(sqlite_system, "broker", CELERY_BROKER_URL=elsewhere)
            assert f"Hostname mismatch, certificate is not valid for '{HOST}'" in said
            assert problem(sqlite_system, "broker") == ""
            assert runs_a_task(sqlite_system)
    finally:
        valkey.stop()


@pytest.mark.rabbitmq
def test_rabbitmq(sqlite_system: System, authority: Authority, rabbitmq: RabbitMQ) -> None:
    rabbitmq.create_vhost("tls")
    connect = partial(asyncio.open_connection, ADDRESS, rabbitmq.port)
    with ports_of(connect, authority) as ports:
        right, unknown, elsewhere = (f"amqps://guest:guest@{HOST}:{port}/tls" for port in ports)
        sqlite_system.environment |= {
            "SECRET_KEY": "only for tests " * 4,
            "CELERY_BROKER_URL": right,
            "SSL_CERT_FILE": str(authority.file),
        }

        said = problem(sqlite_system, "broker", CELERY_BROKER_URL=unknown)
        assert "certificate verify failed: unable to get local issuer certificate" in said
        assert said.endswith("or correct CELERY_BROKER_URL.")
        assert problem(sqlite_system, "broker") == ""
        assert problem(sqlite_system, "broker", CELERY_BROKER_URL=elsewhere) == ""  # the URL alone does not ask for it
        sqlite_system.environment["DJANGO_SETTINGS_MODULE"] = "tests.tls_settings"
        said = problem(sqlite_system, "broker", CELERY_BROKER_URL=elsewhere)
        assert f"IP address mismatch, certificate is not valid for '{ADDRESS}'" in said
        assert runs_a_task(sqlite_system)


def test_postgresql(tmp_path: Path, authority: Authority, postgres: Postgres, migrated_postgres: str) -> None:
    url = postgres.create_database("tls", migrated_postgres)
    folder = unquote(re.findall(r"host=([^&]+)", url)[0])
    connect = partial(asyncio.open_unix_connection, f"{folder}/.s.PGSQL.5432")
    urls = f"postgres://postgres@{HOST}:{{}}/tls?sslmode=verify-full&sslrootcert={authority.file}"
    with ports_of(connect, authority, postgres=True) as ports:
        right, unknown, elsewhere = (urls.format(port) for port in ports)
        system = System(tmp_path / "var", {"SECRET_KEY": "only for tests " * 4, "DATABASE_URL": right})

        said = problem(system, "database", DATABASE_URL=unknown)
        assert "SSL error: certificate verify failed" in said
        assert said.endswith("or correct DATABASE_URL.")
        said = problem(system, "database", DATABASE_URL=elsewhere)
        assert f'server certificate for "elsewhere.example.org" does not match host name "{HOST}"' in said
        assert problem(system, "database") == ""
        assert runs_a_task(system)
    nothing_is_left(system.folder)

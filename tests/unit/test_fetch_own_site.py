"""Of the site itself tasks fetch the pages under /samples/, and nothing else, by whatever name or address."""

import socket
from collections.abc import Callable
from typing import Any

import pytest
from django.conf import LazySettings

from tasks_app import fetch_guard
from tasks_app.fetch import fetch_page
from tasks_app.fetch_guard import FetchRefused
from tests.unit.conftest import Server, page, redirect

Serve = Callable[..., Server]
NO_SAMPLES = (
    *("/", "", "/admin/", "/login/", "/healthz", "/samples", "/samplesx/", "/xsamples/json/", "//samples/json/"),
    *("/samples/../admin/", "/samples/json/../../admin/", "/samples/./json/", "/samples//", "/samples/json"),
    *(
        "/samples/%2e%2e/admin/",
        "/samples/json%2f..%2f..%2fadmin/",
        "/samples/..;/admin/",
        "/samples/json/?next=/admin/",
    ),
    *("/samples/json/%0a", "/SAMPLES/json/", "/samples/json/x/", "/samples/\\admin/", "/x/../samples/json/"),
)


@pytest.fixture(autouse=True)
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """Host names that resolve as a test says."""
    known: dict[str, list[str]] = {"localhost": ["127.0.0.1"]}
    really = socket.getaddrinfo

    def look_up(host: str, port: int, *args: Any, **kwargs: Any) -> list[Any]:
        return [info for ip in known.get(host, [host]) for info in really(ip, port, *args, **kwargs)]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    return known


@pytest.fixture
def site(serve: Serve, settings: LazySettings) -> Server:
    """The web server of `handbell up`, as the processes that it runs are told."""
    server = serve(page("hello"))
    settings.WEB_ADDRESS = server.address
    settings.FETCH_ALLOWED_HOSTS = []
    return server


@pytest.fixture
def public_site(
    site: Server, names: dict[str, list[str]], settings: LazySettings, monkeypatch: pytest.MonkeyPatch
) -> Server:
    """The same, elsewhere: 127.0.0.1 plays a public address that is not one of this machine's."""
    monkeypatch.setattr(fetch_guard, "is_public", lambda address: address == "127.0.0.1")
    monkeypatch.setattr(fetch_guard, "_own_addresses", set)
    settings.WEB_ADDRESS = ""
    for name in ("site.example", "site.example.", "www.site.example", "other.example", "bücher.example"):
        names[name] = ["127.0.0.1"]
    return site


# --- Under `handbell up` -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "LOCALHOST"])
@pytest.mark.parametrize("path", ["/samples/", "/samples/json/", "/samples/json/#top"])
def test_the_samples_are_fetched_by_each_name_of_this_machine(host: str, path: str, site: Server) -> None:
    assert fetch_page(f"http://{host}:{site.port}{path}") == "hello"


@pytest.mark.parametrize("path", NO_SAMPLES)
def test_no_other_page_of_the_site_is_fetched(path: str, site: Server) -> None:
    for host in ("127.0.0.1", "localhost"):
        with pytest.raises(FetchRefused, match="is not a public address"):
            fetch_page(f"http://{host}:{site.port}{path}")
    assert site.connections == 0


def test_no_other_server_on_this_machine_is_asked_for_samples(site: Server, serve: Serve) -> None:
    other_port, other_address = serve(page("secret")), serve(page("secret"), "127.0.0.2", site.port)

    for server in (other_port, other_address):
        with pytest.raises(FetchRefused, match="is not a public address"):
            fetch_page(server.url("/samples/json/"))
        assert server.connections == 0


def test_of_several_addresses_only_that_of_the_web_server_is_connected_to(
    site: Server, serve: Serve, names: dict[str, list[str]]
) -> None:
    other = serve(page("secret"), "127.0.0.2", site.port)
    names["localhost"] = ["127.0.0.2", "::1", "127.0.0.1"]

    assert fetch_page(f"http://localhost:{site.port}/samples/json/") == "hello"
    assert other.connections == 0


def test_a_server_on_every_address_is_reached_at_those_of_this_machine(site: Server, settings: LazySettings) -> None:
    settings.WEB_ADDRESS = f"0.0.0.0:{site.port}"

    assert fetch_page(site.url("/samples/json/")) == "hello"
    for url in (site.url("/admin/"), f"http://10.1.2.3:{site.port}/samples/json/"):
        with pytest.raises(FetchRefused):
            fetch_page(url)


def test_without_up_not_even_the_samples_are_fetched_from_this_machine(site: Server, settings: LazySettings) -> None:
    settings.WEB_ADDRESS = ""

    with pytest.raises(FetchRefused, match=rf"Add 127\.0\.0\.1:{site.port} to FETCH_ALLOWED_HOSTS"):
        fetch_page(site.url("/samples/json/"))
    assert site.connections == 0


@pytest.mark.parametrize("target", ["/samples/re/", "/admin/", "http://127.0.0.1:1/samples/"])
def test_a_sample_that_redirects_leads_to_samples_only(target: str, serve: Serve, settings: LazySettings) -> None:
    def answer(connection: socket.socket) -> None:
        (redirect(target) if "/json/" in server.requests[-1] else page("arrived"))(connection)

    server: Server = serve(answer)
    settings.WEB_ADDRESS = server.address
    if target == "/samples/re/":
        assert fetch_page(server.url("/samples/json/")) == "arrived"
    else:
        with pytest.raises(FetchRefused, match="is not a public address"):
            fetch_page(server.url("/samples/json/"))
        assert len(server.requests) == 1


# --- At its public address ---------------------------------------------------------------------------------------

OWN_NAMES = ("site.example", "SITE.example", "site.example.", "www.site.example", "bücher.example")


@pytest.mark.parametrize("host", OWN_NAMES)
def test_at_a_public_name_of_the_site_the_samples_are_fetched_and_nothing_else(
    host: str, public_site: Server, settings: LazySettings
) -> None:
    settings.ALLOWED_HOSTS = [".site.example", "xn--bcher-kva.example"]

    assert fetch_page(f"http://{host}:{public_site.port}/samples/json/") == "hello"
    for path in ("/", "/admin/", "/healthz", "/samples/../admin/"):
        with pytest.raises(FetchRefused, match="is this site itself, of which tasks fetch the pages under /samples/"):
            fetch_page(f"http://{host}:{public_site.port}{path}")
    assert public_site.connections == 1


def test_no_redirect_leads_to_a_public_name_of_the_site(
    public_site: Server, serve: Serve, settings: LazySettings
) -> None:
    settings.ALLOWED_HOSTS = ["site.example"]
    outside = serve(redirect(f"http://site.example:{public_site.port}/admin/"))

    with pytest.raises(FetchRefused, match="is this site itself"):
        fetch_page(f"http://other.example:{outside.port}/samples/json/")
    assert (outside.connections, public_site.connections) == (1, 0)


@pytest.mark.parametrize("allowed_hosts", [["site.example"], ["*"]])
def test_other_public_hosts_are_fetched_as_ever(
    allowed_hosts: list[str], public_site: Server, settings: LazySettings
) -> None:
    settings.ALLOWED_HOSTS = allowed_hosts

    assert fetch_page(f"http://other.example:{public_site.port}/admin/") == "hello"


def test_a_public_address_of_this_machine_is_the_sites_own_by_whatever_name(
    public_site: Server, settings: LazySettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.ALLOWED_HOSTS = ["*"]
    monkeypatch.setattr(fetch_guard, "_own_addresses", lambda: {"127.0.0.1"})

    for host in ("other.example", "127.0.0.1"):
        with pytest.raises(FetchRefused, match="is this site itself"):
            fetch_page(f"http://{host}:{public_site.port}/admin/")
    assert public_site.connections == 0


def test_the_addresses_of_this_machine_are_known() -> None:
    assert "127.0.0.1" in fetch_guard._own_addresses()


def test_what_fetch_allowed_hosts_names_is_allowed_even_if_it_is_the_site(
    public_site: Server, settings: LazySettings
) -> None:
    settings.ALLOWED_HOSTS = ["site.example"]
    settings.FETCH_ALLOWED_HOSTS = [f"site.example:{public_site.port}"]

    assert fetch_page(f"http://site.example:{public_site.port}/healthz") == "hello"

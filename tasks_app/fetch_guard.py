"""Where tasks may fetch from: public addresses, what FETCH_ALLOWED_HOSTS names, and of this site itself its samples.

A task has no session, and asks from inside: whatever of this site it could reach would be shown to whoever may start
the task. So nothing of the site is fetched but the pages under /samples/, which are public and the same for everybody.
"""

import ipaddress
import re
import socket
from collections.abc import Sequence

import psutil
from django.conf import settings
from django.http.request import validate_host

_UNICAST_V6 = ipaddress.ip_network("2000::/3")
#: Not the public internet, although Python (or this version of it) counts them in: addresses that carry another one
#: inside (6to4 and its relays, Teredo), those for documentation and protocols, and the host below an Azure machine.
_NOT_PUBLIC = tuple(
    ipaddress.ip_network(net)
    for net in ("192.0.0.0/24", "192.88.99.0/24", "168.63.129.16/32", "2001::/23", "2002::/16", "3fff::/20")
)
_SAMPLE_PAGE = re.compile(r"/samples/([a-z0-9]+/)?")


class FetchRefused(Exception):
    """A page was not fetched: its address is not allowed, or it was too large, too slow or not there."""


def is_public(address: str) -> bool:
    """Whether an IP address, as text, belongs to a host on the public internet."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is not None:
            return is_public(str(ip.ipv4_mapped))
        if ip not in _UNICAST_V6:
            return False
    return ip.is_global and not (ip.is_multicast or ip.is_reserved or any(ip in net for net in _NOT_PUBLIC))


def allowed_addresses(host: str, port: int, path: str, found: Sequence[str]) -> Sequence[str]:
    """Those of the addresses `found` for `host` that `path` may be fetched from.

    Raises:
        FetchRefused: there are none.
    """
    if {host, f"{host}:{port}"} & {name.lower() for name in settings.FETCH_ALLOWED_HOSTS}:
        return found
    is_sample = _SAMPLE_PAGE.fullmatch(path) is not None
    if is_sample and (listening := [ip for ip in found if _is_web_server(ip, port)]):
        return listening
    if not all(is_public(ip) for ip in found):
        raise FetchRefused(
            f"{host} is not a public address, and tasks fetch from public addresses only. "
            f"Add {host}:{port} to FETCH_ALLOWED_HOSTS if it should be allowed."
        )
    if not is_sample and (_is_own_name(host) or any(ip in _own_addresses() for ip in found)):
        raise FetchRefused(f"{host} is this site itself, of which tasks fetch the pages under /samples/ only.")
    return found


def _is_web_server(ip: str, port: int) -> bool:
    """Whether the web server of the `handbell up` that runs this process listens there."""
    host, _, own_port = settings.WEB_ADDRESS.rpartition(":")
    if own_port != str(port):
        return False
    listening = socket.gethostbyname(host)
    return ip == listening or (listening == "0.0.0.0" and ip in _own_addresses())  # noqa: S104


def _is_own_name(host: str) -> bool:
    """Whether this site answers to the name, as ALLOWED_HOSTS says; `*` tells nothing."""
    try:
        name = host.encode("idna").decode().rstrip(".")
    except UnicodeError:
        return False  # nor is it looked up
    name = f"[{name}]" if ":" in name else name
    return validate_host(name, [pattern for pattern in settings.ALLOWED_HOSTS if pattern != "*"])


def _own_addresses() -> set[str]:
    """The addresses of this machine."""
    return {address.address.partition("%")[0] for many in psutil.net_if_addrs().values() for address in many}

"""By what django-axes counts failed attempts to sign in: the name that was tried, and the address it came from."""

import ipaddress
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from django.conf import settings
from django.contrib.auth.models import User
from django.http import HttpRequest

IPV6_NETWORK_BITS = 64  # what one subscriber is given at least
MAX_USERNAME_CHARACTERS = User._meta.get_field("username").max_length


def attempted_username(request: HttpRequest, credentials: Mapping[str, Any] | None) -> str:
    """The name, cut to the length of an account's: forms take any, and PostgreSQL stores none that is too long."""
    username = (credentials or request.POST).get(User.USERNAME_FIELD) or ""
    return str(username)[:MAX_USERNAME_CHARACTERS]


def client_address(request: HttpRequest) -> str | None:
    """The client's address; of IPv6 that of its network, any address of which it can take. None over a unix socket.

    Each proxy appends whom it was asked by to `X-Forwarded-For`, so only the last PROXY_COUNT entries are not the
    client's own invention.
    """
    forwarded = request.headers.get("X-Forwarded-For", "").split(",")
    if 0 < settings.PROXY_COUNT <= len(forwarded):
        with suppress(ValueError):
            return _counted(forwarded[-settings.PROXY_COUNT].strip())
    address = request.META.get("REMOTE_ADDR")
    return _counted(address) if address else None


def _counted(address: str) -> str:
    if address.startswith("["):  # with a port, as some proxies write it
        address = address[1:].partition("]")[0]
    elif address.count(":") == 1:
        address = address.partition(":")[0]
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped:
            return str(ip.ipv4_mapped)
        return str(ipaddress.ip_network((int(ip), IPV6_NETWORK_BITS), strict=False).network_address)
    return str(ip)

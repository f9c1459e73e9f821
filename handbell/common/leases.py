"""Leases: for how long a claim holds without a word from its owner."""

from datetime import datetime, timedelta

from django.utils import timezone

from handbell.conf import conf

RENEWALS_PER_LEASE = 5


def lease() -> timedelta:
    return timedelta(seconds=conf.LEASE_SECONDS)


def lease_end() -> datetime:
    """When a claim expires that is made or renewed now."""
    return timezone.now() + lease()


def renewal_seconds() -> float:
    """How often an owner renews its claims."""
    return conf.LEASE_SECONDS / RENEWALS_PER_LEASE

"""What the first `handbell up` finds missing and makes: an admin account, and Flower's password."""

import secrets
from pathlib import Path

from django.apps import apps
from django.conf import settings
from django.contrib.auth import get_user_model

from handbell.common.secret_file import kept_secret
from handbell.conf import conf


def ensure_admin() -> str | None:
    """Create the account `admin` if there is no superuser; its password if so, otherwise None.

    In a project with a user model of its own, nobody can guess what an account needs: there it creates none.
    """
    if settings.AUTH_USER_MODEL != "auth.User" or not apps.is_installed("django.contrib.auth"):
        return None
    users = get_user_model()._default_manager
    if users.filter(is_superuser=True).exists():
        return None
    password = secrets.token_urlsafe(12)
    users.create_superuser(username="admin", email="", password=password)
    return password


def flower_password_file() -> Path:
    return conf.DATA_DIR / "flower_password"


def flower_credentials() -> str:
    """`user:password` for Flower: HANDBELL_FLOWER_BASIC_AUTH, or a generated one kept in a file."""
    return conf.FLOWER_BASIC_AUTH or f"admin:{kept_secret(flower_password_file())}"

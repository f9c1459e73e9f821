"""Settings of a site with Django's own admin and Handbell's pages in it: no unfold, and none of the project's pages."""

from project.settings import *  # noqa: F403
from project.settings import INSTALLED_APPS as _APPS
from project.settings import TEMPLATES as _TEMPLATES

INSTALLED_APPS = ["django.contrib.admin.apps.SimpleAdminConfig", *_APPS]
INSTALLED_APPS = [name for name in INSTALLED_APPS if name not in {"unfold", "django.contrib.admin"}]
TEMPLATES = [{**_TEMPLATES[0], "DIRS": []}]
ROOT_URLCONF = "tests.unit.stock_admin_urls"

"""How the admin looks: django-unfold's setting."""

from typing import Any

from django.templatetags.static import static
from django.urls import reverse_lazy

UNFOLD: dict[str, Any] = {
    "SITE_TITLE": "Tasks",
    "SITE_HEADER": "Tasks",
    "SITE_URL": reverse_lazy("home"),
    "SITE_ICON": lambda request: static("favicon.svg"),
    "SITE_FAVICONS": [{"rel": "icon", "type": "image/svg+xml", "href": lambda request: static("favicon.svg")}],
    "SHOW_HISTORY": True,
    "SHOW_VIEW_ON_SITE": True,
    "STYLES": [lambda request: static("handbell/admin.css"), lambda request: static("admin.css")],
    "SCRIPTS": [lambda request: static("admin.js")],
    "SIDEBAR": {"show_search": False, "navigation": "tasks_app.admin.navigation.sidebar"},
    # Unfold would write them into every page; admin.css has them.
    "COLORS": lambda request: {},
}

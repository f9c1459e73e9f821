"""The web application, for ASGI servers."""

import os

from django.core.asgi import get_asgi_application

from project.checks import refuse_wrong_settings

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")
application = get_asgi_application()
refuse_wrong_settings()

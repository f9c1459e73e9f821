"""The web application, for WSGI servers."""

import os

from django.core.wsgi import get_wsgi_application

from project.checks import refuse_wrong_settings

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")
application = get_wsgi_application()
refuse_wrong_settings()

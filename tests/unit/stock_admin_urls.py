"""The addresses of a site that is nothing but Django's own admin with Handbell's pages in it."""

from django.contrib import admin
from django.contrib.auth import admin as _accounts  # noqa: F401  (registers users and groups)
from django.urls import include, path

import handbell.admin  # noqa: F401  (registers its pages; the project's need unfold)

urlpatterns = [path("admin/", admin.site.urls), path("", include("tasks_app.web.urls"))]

"""The addresses of the pages for people who start work."""

from django.templatetags.static import static
from django.urls import path
from django.views.generic import RedirectView

from tasks_app.web import api, entries, home, jobs, samples

urlpatterns = [
    path("", home.home, name="home"),
    path("start/<slug:slug>/", home.start, name="start"),
    path("runs/<uuid:pk>/", home.run, name="run"),
    path("jobs/", jobs.jobs, name="jobs"),
    path("jobs/<int:pk>/", jobs.job, name="job"),
    path("jobs/<int:pk>/progress/", jobs.progress, name="job_progress"),
    path("jobs/<int:pk>/<slug:action>/", jobs.steer, name="steer_job"),
    path("system/", home.system, name="system"),
    path("entries/<int:pk>/", entries.entry, name="entry"),
    path("entries/<int:pk>/numbers/", entries.numbers, name="entry_numbers"),
    path("api/tasks/<str:task_id>/", api.task, name="api_task"),
    path("favicon.ico", RedirectView.as_view(url=static("favicon.svg"))),  # pages without a head of their own ask
    path("samples/", samples.index, name="samples"),
    path("samples/<slug:name>/", samples.sample, name="sample"),
]

"""The forms that start workloads. Each says what is wrong with what was entered."""

import re
from typing import Any
from urllib.parse import urlsplit

from django import forms
from django.core.validators import RegexValidator
from django.http import HttpRequest
from django.urls import reverse

from tasks_app.workloads.words import SAMPLES

MAX_URLS = 100
SAMPLE_PAGES = 8


class WorkloadForm(forms.Form):
    """A workload's inputs. `request` is the one being answered."""

    def __init__(self, *args: Any, request: HttpRequest, **kwargs: Any) -> None:
        self.request = request
        kwargs.setdefault("auto_id", f"{type(self).__name__.lower()}_%s")
        super().__init__(*args, **kwargs)

    def inputs(self) -> dict[str, Any]:
        """The checked values, as the workload takes them."""
        return dict(self.cleaned_data)


class SerialForm(WorkloadForm):
    name = forms.CharField(
        label="Counter",
        initial="visits",
        max_length=100,
        validators=[RegexValidator(r"^[\w.:-]+$", "Use letters, digits, and . : _ - only.")],
    )
    threads = forms.IntegerField(min_value=1, max_value=20, initial=10)
    each = forms.IntegerField(label="Increments each", min_value=1, max_value=200, initial=20)


class FibonacciForm(WorkloadForm):
    n = forms.IntegerField(label="Up to n", min_value=0, max_value=35, initial=20)
    count = forms.IntegerField(label="How many tasks", min_value=1, max_value=2000, initial=300)


class IdentifiersForm(WorkloadForm):
    count = forms.IntegerField(label="How many ids", min_value=1, max_value=1000, initial=200)
    chunk = forms.IntegerField(label="Ids in a chunk", min_value=1, max_value=1000, initial=50)


class JobsForm(WorkloadForm):
    count = forms.IntegerField(label="Fibonacci numbers", min_value=1, max_value=10_000_000, initial=100_000)
    n = forms.IntegerField(label="Up to n", min_value=0, max_value=30, initial=20)
    ids = forms.IntegerField(label="Ids", min_value=1, max_value=1_000_000, initial=10_000)

    def inputs(self) -> dict[str, Any]:
        return {**super().inputs(), "urls": sample_urls(self.request)}


class WordsForm(WorkloadForm):
    urls = forms.CharField(label="Pages, one a line", widget=forms.Textarea(attrs={"rows": 3, "spellcheck": "false"}))
    words = forms.CharField(label="Words to count", initial="the, if, return, object")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.initial["urls"] = "\n".join(sample_urls(self.request))

    def clean_urls(self) -> list[str]:
        urls = self.cleaned_data["urls"].split()
        if len(urls) > MAX_URLS:
            raise forms.ValidationError(f"Enter at most {MAX_URLS} pages; there are {len(urls)}.")
        for url in urls:
            if not is_web_address(url):
                raise forms.ValidationError(f"{url[:100]} is not an http or https address.")
        return list(urls)

    def clean_words(self) -> list[str]:
        words = re.findall(r"[a-z]+", self.cleaned_data["words"].lower())
        if not words:
            raise forms.ValidationError("Enter at least one word.")
        if len(words) > 50:
            raise forms.ValidationError(f"Enter at most 50 words; there are {len(words)}.")
        return list(dict.fromkeys(words))


def sample_urls(request: HttpRequest) -> list[str]:
    return [request.build_absolute_uri(reverse("sample", args=[page])) for page in SAMPLES[:SAMPLE_PAGES]]


def is_web_address(url: str) -> bool:
    """Whether `url` names a host to fetch from, with or without a dot: `http://web:8000/` is one."""
    try:
        parts = urlsplit(url)
        return parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


class VisitsForm(WorkloadForm):
    visits = forms.IntegerField(min_value=1, max_value=50, initial=4)


class LaunchesForm(WorkloadForm):
    limit = forms.IntegerField(label="Launches at most", min_value=1, max_value=50, initial=8)


class PeriodicForm(WorkloadForm):
    pass


FORMS: dict[str, type[WorkloadForm]] = {
    "serial": SerialForm,
    "fibonacci": FibonacciForm,
    "identifiers": IdentifiersForm,
    "words": WordsForm,
    "jobs": JobsForm,
    "visits": VisitsForm,
    "launches": LaunchesForm,
    "periodic": PeriodicForm,
}

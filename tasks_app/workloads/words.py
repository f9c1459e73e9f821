"""Pages are fetched side by side, each is counted, and the counts are added up: a chord of chains."""

from typing import Any

from celery import chain, chord

from tasks_app.models import Run
from tasks_app.tasks import aggregate_results, find_frequency, scrape_url
from tasks_app.workloads.base import Verdict, Workload, ids_of

#: Modules of the standard library whose documentation the web server offers under /samples/NAME/.
SAMPLES = (
    *("argparse", "ast", "asyncio", "base64", "bisect", "calendar", "cmath", "codecs", "collections", "configparser"),
    *("contextlib", "copy", "csv", "dataclasses", "datetime", "decimal", "difflib", "email", "enum", "fnmatch"),
    *("fractions", "functools", "gettext", "glob", "gzip", "hashlib", "heapq", "hmac", "html", "inspect", "io"),
    *("ipaddress", "itertools", "json", "keyword", "linecache", "locale", "logging", "math", "mimetypes", "numbers"),
    *("operator", "pathlib", "pickle", "platform", "pprint", "queue", "random", "re", "reprlib", "sched", "secrets"),
    *("selectors", "shlex", "shutil", "socket", "sqlite3", "ssl", "stat", "statistics", "string", "struct"),
    *("subprocess", "tarfile", "tempfile", "textwrap", "threading", "time", "timeit", "tokenize", "traceback"),
    *("types", "typing", "unicodedata", "unittest", "uuid", "weakref", "zipfile", "zlib"),
)


class WordFrequency(Workload):
    slug = "words"
    title = "Word frequency"
    summary = "Every page is scraped on the io queue, counted on the cpu queue, and one last task adds the counts up."
    demo = {"words": ["the", "if", "return", "object"]}

    def send(self, inputs: dict[str, Any]) -> list[str]:
        words = inputs["words"]
        pages = (chain(scrape_url.s(url), find_frequency.s(words)) for url in inputs["urls"])
        return ids_of(chord(pages, aggregate_results.s())())

    def judge(self, run: Run) -> Verdict:
        """Every page came, and the total is the sum of its parts."""
        if failure := self.failed(run):
            return failure
        results = self.results(run)
        pages = len(run.inputs["urls"])
        texts = [result for result in results if isinstance(result, str)]
        *parts, total = [result for result in results if isinstance(result, dict)]
        added = {word: sum(part[word] for part in parts) for word in run.inputs["words"]}
        ok = len(texts) == len(parts) == pages and total == added and sum(total.values()) > 0
        counts = ", ".join(f"{word} {number:,}" for word, number in total.items())
        return Verdict(ok, f"{pages} pages: {counts}")

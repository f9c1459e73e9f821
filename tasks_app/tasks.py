"""Every task. Add yours here: each is a few lines, and its queue is one from tasks_app/queues.py."""

import re
import time
from collections import Counter as Tally
from collections.abc import Sequence
from datetime import timedelta

from celery import shared_task
from django.conf import settings
from django.db.models import F
from django.utils import timezone

from handbell import Job, delete_finished, isolated_task, over, serial_task
from tasks_app.fetch import fetch_page
from tasks_app.models import Counter, Entry, PlainCounter, Run, Score

# --- Serial state: each counter is changed by its lane, one operation at a time, so nobody needs a lock -------------


@serial_task(on=Counter, create=True)
def increment_value(counter: Counter, by: int = 1) -> int:
    counter.value += by
    return counter.value


@serial_task(on=Counter)
def read_value(counter: Counter) -> int:
    """The counter's value in line with the writes. `Counter.objects.get(pk=…)` reads it now, without waiting for
    any.
    """
    return counter.value


# --- The simple way: a plain task on queue `serial`, whose worker (-c 1) does one at a time -------------------------


@shared_task(queue="serial")
def increment_plain(name: str, by: int = 1) -> int:
    counter, _ = PlainCounter.objects.get_or_create(name=name)
    counter.value += by
    counter.save()
    return counter.value


@shared_task(queue="serial")
def read_plain(name: str) -> int:
    return PlainCounter.objects.values_list("value", flat=True).get(name=name)


# --- Fibonacci: computation, routed by the size of its argument (see `route` in queues.py) --------------------------


@shared_task
def fibonacci(n: int) -> int:
    """The n-th Fibonacci number, by recursion: fibonacci(30) keeps a core busy for about 0.1 s."""

    def fib(k: int) -> int:
        return k if k < 2 else fib(k - 1) + fib(k - 2)

    return fib(n)


# --- A long list of ids: one task per id, or chunks of ids, or chunks with a summary --------------------------------


def collatz_steps(number: int) -> int:
    """How many steps the Collatz sequence takes from `number` (1 or more) to 1."""
    steps = 0
    while number > 1:
        number = 3 * number + 1 if number % 2 else number // 2
        steps += 1
    return steps


@shared_task(queue="cpu")
def score(item: int) -> int:
    return collatz_steps(item)


@shared_task(queue="cpu")
def score_chunk(items: Sequence[int]) -> int:
    """Score many ids, save them with one bulk write, and return how many."""
    scores = [Score(item=item, value=collatz_steps(item)) for item in items]
    Score.objects.bulk_create(scores, update_conflicts=True, unique_fields=["item"], update_fields=["value"])
    return len(scores)


@shared_task(queue="cpu")
def summarize(counts: Sequence[int]) -> dict[str, int]:
    return {"chunks": len(counts), "items": sum(counts)}


# --- Word frequency: pages fetched side by side, counted, and added up ----------------------------------------------


@shared_task(queue="io")
def scrape_url(url: str) -> str:
    """The text of a page; only public addresses are fetched (see fetch.py)."""
    return fetch_page(url)


@shared_task(queue="cpu")
def find_frequency(text: str, words: Sequence[str]) -> dict[str, int]:
    found = Tally(re.findall(r"[a-z]+", text.lower()))
    return {word: found[word] for word in words}


@shared_task(queue="cpu")
def aggregate_results(frequencies: Sequence[dict[str, int]]) -> dict[str, int]:
    total: Tally[str] = Tally()
    for frequency in frequencies:
        total.update(frequency)
    return dict(total)


# --- The same three as jobs: any number of items, on every core, each result kept -----------------------------------


@shared_task
def remainder(item: int, size: int) -> int:
    return item % size


@shared_task
def scored(item: int) -> list[int]:
    return [item, collatz_steps(item)]


def save_scores(pairs: Sequence[Sequence[int]]) -> None:
    scores = [Score(item=item, value=value) for item, value in pairs]
    Score.objects.bulk_create(scores, update_conflicts=True, unique_fields=["item"], update_fields=["value"])


def fibonacci_job(count: int, n: int) -> Job:
    return over(range(count)).map(remainder, n + 1).map(fibonacci).start("cpu", name="Fibonacci numbers")


def scores_job(count: int) -> Job:
    return over(range(1, count + 1)).map(scored).save(save_scores).start("cpu", name="A long list of ids")


def words_job(urls: Sequence[str], words: Sequence[str]) -> Job:
    job = over(urls).map(scrape_url).map(find_frequency, words).reduce(aggregate_results)
    return job.start("io", threads=16, name="Word frequency")


# --- Visit: a page triggers this and does not wait for it -----------------------------------------------------------


def slow_call(seconds: float) -> None:
    """Stands for a service that takes its time to answer."""
    time.sleep(seconds)


@shared_task(queue="high")
def update_metrics(entry_id: int) -> dict[str, int]:
    """Count a visit and work out an entry's numbers: over a second of slow calls."""
    entry = Entry.objects.get(pk=entry_id)
    words = len(entry.body.split())
    slow_call(0.6)
    reading_seconds = round(words / 230 * 60)  # 230 words a minute: Brysbaert, "How many words do we read?", 2019
    slow_call(0.6)
    Entry.objects.filter(pk=entry_id).update(
        visits=F("visits") + 1, words=words, reading_seconds=reading_seconds, measured_at=timezone.now()
    )
    return {"words": words, "reading_seconds": reading_seconds}


# --- Launch and go away: whatever it does, it is gone at its deadline -----------------------------------------------

LAUNCH_SECONDS = 2


@isolated_task(timeout=LAUNCH_SECONDS)
def call_stuck_partner(entry_id: int) -> None:
    """Stands for code that you do not trust: it never returns."""
    while True:
        time.sleep(60)


# --- Periodic: started by beat; change when and whether in the admin, under Periodic tasks --------------------------


@shared_task(queue="io")
def delete_old_results() -> dict[str, int]:
    """Delete results and runs older than RESULTS_KEEP_DAYS days."""
    oldest = timezone.now() - timedelta(days=settings.RESULTS_KEEP_DAYS)
    runs, _ = Run.objects.filter(started_at__lt=oldest).delete()
    return {**delete_finished(oldest), "runs": runs}

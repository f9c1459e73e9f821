"""Jobs, side by side with a bare loop, multiprocessing.Pool, joblib, and plain Celery at its best."""

from statistics import mean

from benchmarks.report import Report, Row
from benchmarks.running import CORES, ask, megabytes, peer_worker, systems, worker
from benchmarks.serial import tasks_left, until_none
from tests.system import System

PARTS = "parallel_parts"
POSTGRES, SQLITE = "PostgreSQL", "SQLite"
SAMPLE = "smaller sample"


def run(*, quick: bool) -> Report:
    report = Report("parallel")
    size = 100 if quick else 1
    with systems() as (postgres, sqlite):
        _joblib(report, postgres, 200_000 // size)
        _pool(report, postgres, 15, 200_000 // size, 100)
        _peer(report, postgres, 15, 1_000 // size + 50, tuned=False)
        tuned = _peer(report, postgres, 15, 6_000 // size + 50, tuned=True)
        tuned_small = _peer(report, postgres, 5, 6_000 // size + 50, tuned=True)
        chunks = max((_chunks(report, postgres, 100_000 // size, chunk) for chunk in (200, 1_000)), key=_rate)
        with worker(postgres):
            # A machine is not equally fast all the time: what is compared is measured right before and right after.
            limits = [_limits(report, postgres, size)]
            fifteen = _job(report, postgres, POSTGRES, "map", 1_000_000 // size, 15)
            limits.append(_limits(report, postgres, size))
            small = [_bare(report, postgres, 5, 500_000 // size)]
            five = _job(report, postgres, POSTGRES, "map", 1_000_000 // size, 5)
            small += [_bare(report, postgres, 5, 500_000 // size)]
            makespan = _skewed(report, postgres, POSTGRES, 20_000 // size)
            threads = _io(report, postgres, 12_800 // size)
        with worker(sqlite):
            on_sqlite = _job(report, sqlite, SQLITE, "map", 1_000_000 // size, 15)
            _job(report, sqlite, SQLITE, "map", 1_000_000 // size, 5)
        report.more["start_ms"] = _start(postgres, 1_000_000 // size)
        report.more["memory_mb"] = _memory(postgres, (10_000, 10_000_000) if size == 1 else (1_000, 10_000))
    report.ratios = {
        "efficiency": fifteen.rate / (CORES * mean(bare.rate for bare, _ in limits)),
        "vs_pool": fifteen.rate / mean(pool.rate for _, pool in limits),
        "vs_celery_tuned": fifteen.rate / tuned.rate,
        "vs_celery_chunks": fifteen.rate / chunks.rate,
        "small_items_vs_celery_tuned": five.rate / tuned_small.rate,
        "small_items_vs_bare": five.rate / mean(bare.rate for bare in small),
        "skewed_makespan_over_ideal": makespan,
        "threads_vs_serial": threads,
        "sqlite_vs_postgres": on_sqlite.rate / fifteen.rate,
    }
    return report


def _limits(report: Report, system: System, size: int) -> tuple[Row, Row]:
    """What a job cannot exceed: the bare loop, and a pool that keeps nothing."""
    return _bare(report, system, 15, 100_000 // size), _pool(report, system, 15, 200_000 // size, 1_000)


def _rate(row: Row) -> float:
    return row.rate


def _bare(report: Report, system: System, n: int, count: int) -> Row:
    seconds = ask(system, PARTS, f"bare({n}, {count})")
    return report.add(Row(f"bare loop, fib({n}), 1 process", "Python", count, seconds, exact=True, note=SAMPLE))


def _pool(report: Report, system: System, n: int, count: int, chunk: int) -> Row:
    found = ask(system, PARTS, f"pool({n}, {count}, {chunk})")
    return report.add(Row(f"multiprocessing.Pool, fib({n}), chunks of {chunk}", "Python", count, **found, note=SAMPLE))


def _joblib(report: Report, system: System, count: int) -> Row:
    found = ask(system, PARTS, f"with_joblib(15, {count})")
    return report.add(Row("joblib, fib(15)", "Python", count, **found, note=SAMPLE))


def _peer(report: Report, system: System, n: int, count: int, *, tuned: bool) -> Row:
    """A message per item, sent in advance."""
    ask(system, PARTS, "clear()")
    ask(system, PARTS, f"peer_fib({n}, {count})")
    with peer_worker(system, tuned=tuned):
        until_none(system, tasks_left(count))
    found = ask(system, PARTS, f"peer_outcome({n}, {count}, {count})")
    name = f"plain Celery, fib({n}), {'tuned' if tuned else 'defaults'}"
    return report.add(Row(name, POSTGRES, count, **found, note=SAMPLE))


def _chunks(report: Report, system: System, count: int, chunk: int) -> Row:
    ask(system, PARTS, "clear()")
    ask(system, PARTS, f"peer_chunks(15, {count}, {chunk})")
    with peer_worker(system, tuned=True):
        until_none(system, tasks_left(-(-count // chunk)))
    found = ask(system, PARTS, f"peer_outcome(15, {count}, {-(-count // chunk)})")
    return report.add(Row(f"Celery chunks of {chunk}, fib(15), tuned", POSTGRES, count, **found, note=SAMPLE))


def _job(report: Report, system: System, on: str, kind: str, count: int, n: int) -> Row:
    """From the call to the last result's commit; then every result is read again."""
    ask(system, PARTS, "clear()")
    found = ask(system, PARTS, f"job({kind!r}, {count}, {n})")
    note = f"{found['chunks']} chunks"
    return report.add(Row(f"job, fib({n})", on, count, found["seconds"], found["exact"], note))


def _skewed(report: Report, system: System, on: str, count: int) -> float:
    """How many times as long as if all cores had finished at the same moment."""
    ask(system, PARTS, "clear()")
    before = ask(system, PARTS, f"bare_skewed({count})")
    found = ask(system, PARTS, f"job('skewed', {count})")
    ideal = mean((before, ask(system, PARTS, f"bare_skewed({count})"))) / CORES
    note = f"{found['chunks']} chunks; ideal {ideal:.2f} s"
    report.add(Row("job, fib(5 … 27), skewed", on, count, found["seconds"], found["exact"], note))
    return float(found["seconds"] / ideal)


def _io(report: Report, system: System, count: int) -> float:
    """Items that wait 10 ms, 32 at a time in each process, against one after the other in one."""
    found = ask(system, PARTS, f"job('nap', {count}, threads=32)")
    row = report.add(Row("job, 10 ms of waiting, threads=32", POSTGRES, count, found["seconds"], found["exact"]))
    return row.rate / 100


def _start(system: System, ids: int) -> dict[str, float]:
    found = ask(system, PARTS, f"start_times({ids})")
    return {"range_of_a_million": round(1000 * found["range"], 1), f"stream_of_{ids:,}": round(1000 * found["stream"])}


def _memory(system: System, counts: tuple[int, int]) -> dict[str, list[int]]:
    """The producer that streams its items, and the worker, after few and after many."""
    memory: dict[str, list[int]] = {"producer": [], "worker": []}
    for count in counts:
        ask(system, PARTS, "clear()")
        with worker(system) as running:
            memory["producer"].append(ask(system, PARTS, f"stream({count})"))
            memory["worker"].append(megabytes(running))
    return memory

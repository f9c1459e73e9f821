"""From many items to one value: a job's `reduce`, side by side with a chord of plain Celery."""

from benchmarks.report import Report, Row
from benchmarks.running import ask, peer_worker, systems, worker
from tests.system import System

PARTS = "parallel_parts"
POSTGRES = "PostgreSQL"
TIMES = 3  # each job is run so often, in turns, and the quickest counts: the difference is smaller than the noise


def run(*, quick: bool) -> Report:
    report = Report("fanin")
    size = 100 if quick else 1
    overhead: dict[str, float] = {}
    with systems() as (postgres, _):
        with peer_worker(postgres, tuned=True):
            for count in (1_000 // min(size, 20), 10_000 // size):
                found = ask(postgres, PARTS, f"peer_chord({count})")
                chord = report.add(Row("chord, fib(5), tuned", POSTGRES, count, **found))
        with worker(postgres):
            ten_thousand, _ = _with_and_without(report, postgres, 10_000 // size, 5)
            for n, count in ((5, 1_000_000 // size), (15, 200_000 // size)):
                reduced, plain = _with_and_without(report, postgres, count, n)
                overhead[f"fib({n}) x {count:,}"] = round(100 * (reduced.seconds / plain.seconds - 1), 1)
    report.ratios = {"vs_chord_at_10k": ten_thousand.rate / chord.rate}
    report.more["reduce_overhead_percent"] = overhead
    return report


def _with_and_without(report: Report, system: System, count: int, n: int) -> tuple[Row, Row]:
    """The same job with `reduce` and without."""
    found: dict[str, list[tuple[float, bool]]] = {"reduce": [], "map": []}
    for _ in range(TIMES):
        for kind, measured in found.items():
            ask(system, PARTS, "clear()")
            outcome = ask(system, PARTS, f"job({kind!r}, {count}, {n})")
            measured.append((outcome["seconds"], outcome["exact"]))
    rows = []
    for kind, name in (("reduce", f"job, fib({n}), reduce"), ("map", f"job, fib({n}), no reduce")):
        seconds, exact = min(found[kind])[0], all(right for _, right in found[kind])
        rows.append(report.add(Row(name, POSTGRES, count, seconds, exact, f"the quickest of {TIMES}")))
    return rows[0], rows[1]

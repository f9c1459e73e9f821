"""Whether years of finished work make the engine slower: its busiest statements beside ten million finished rows of
each kind, and beside none.
"""

from benchmarks import scale_parts as parts
from benchmarks.report import Report, Row
from benchmarks.running import TIMEOUT_SECONDS, systems

ROWS, QUICK_ROWS = 10_000_000, 200_000
WHAT = {
    "drain": "a batch of 2,000 operations",
    "claim": "a claim of 50 calls, and their results",
    "sweep": "a look of the sweeper",
}


def run(*, quick: bool) -> Report:
    report = Report("scale")
    rows = QUICK_ROWS if quick else ROWS
    with systems() as (postgres, _):
        before = {name: postgres.call(getattr(parts, name), timeout=TIMEOUT_SECONDS) for name in WHAT}
        seconds = postgres.call(parts.fill, rows, timeout=TIMEOUT_SECONDS)
        report.add(Row("finished rows added, of each of four kinds", "PostgreSQL", rows, seconds, exact=True))
        after = {name: postgres.call(getattr(parts, name), timeout=TIMEOUT_SECONDS) for name in WHAT}
        exact = postgres.call(parts.is_exact)
    for name, what in WHAT.items():
        for said, found in ((f"{what}, no other rows", before), (f"{what}, {rows:,} finished rows", after)):
            note = f"{found[name]:.1f} ms each"
            report.add(Row(said, "PostgreSQL", 1, found[name] / 1000, exact, note))
    report.ratios = {name: after[name] / before[name] for name in WHAT}
    return report

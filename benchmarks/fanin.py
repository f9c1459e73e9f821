"""From many items to one value: a job's `reduce`, side by side with a chord of plain Celery."""

from benchmarks.report import Report, Row
from benchmarks.running import CORES, ask, peer_worker, systems, worker

PARTS = "parallel_parts"
POSTGRES = "PostgreSQL"


def run(*, quick: bool) -> Report:
    report = Report("fanin")
    size = 100 if quick else 1
    overheads: dict[str, float] = {}
    with systems() as (postgres, _):
        with peer_worker(postgres, tuned=True):
            chords = {}
            for count in (1_000 // min(size, 20), 10_000 // size):
                found = ask(postgres, PARTS, f"peer_chord({count})")
                chords[count] = report.add(Row("chord, fib(5), tuned", POSTGRES, count, **found))
        with worker(postgres):
            for count in (10_000 // size, 100_000 // size, 1_000_000 // size):
                ask(postgres, PARTS, "clear()")
                plain = ask(postgres, PARTS, f"job('map', {count}, 5)")
                found = ask(postgres, PARTS, f"job('reduce', {count}, 5, keep_results=False)")
                note = f"{plain['seconds']:.2f} s with every result kept and nothing folded"
                row = report.add(Row("job, reduce, fib(5)", POSTGRES, count, found["seconds"], found["exact"], note))
                overheads[f"{count:,}"] = round(100 * (found["seconds"] / plain["seconds"] - 1), 1)
                if count == 10_000 // size:
                    ten_thousand = row
            heavy = ask(postgres, PARTS, f"job('map', {200_000 // size}, 15)")
            folded = ask(postgres, PARTS, f"job('reduce', {200_000 // size}, 15)")
        report.add(Row("job, fib(15), no reduce", POSTGRES, 200_000 // size, heavy["seconds"], heavy["exact"]))
        report.add(Row("job, fib(15), reduce", POSTGRES, 200_000 // size, folded["seconds"], folded["exact"]))
    report.ratios = {"vs_chord_at_10k": ten_thousand.rate / chords[10_000 // size].rate}
    report.more["reduce_overhead_percent"] = {
        **overheads,
        "fib(15)": round(100 * (folded["seconds"] / heavy["seconds"] - 1), 1),
    }
    report.more["cores"] = CORES
    return report

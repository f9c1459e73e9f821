"""What a benchmark found: rows, ratios, and whether every outcome was exactly right."""

import statistics
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Row:
    """One measurement. `rate` is per second. `note` says what is special, such as a smaller sample."""

    what: str
    on: str
    count: int
    seconds: float
    exact: bool
    note: str = ""

    @property
    def rate(self) -> float:
        return self.count / self.seconds


def percentiles(report: "Report", what: str, on: str, times: list[float], *, exact: bool = True) -> dict[str, float]:
    """Add a row about how long something took each time, in milliseconds; the median and the 99th percentile."""
    ordered = sorted(times)
    found = {"p50": round(statistics.median(ordered), 1), "p99": round(ordered[int(len(ordered) * 0.99)], 1)}
    report.add(Row(what, on, len(times), sum(times) / 1000, exact, f"p50 {found['p50']} ms, p99 {found['p99']} ms"))
    return found


@dataclass
class Report:
    benchmark: str
    rows: list[Row] = field(default_factory=list)
    ratios: dict[str, float] = field(default_factory=dict)
    more: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.console = Console(stderr=True, highlight=False)

    def add(self, row: Row) -> Row:
        self.rows.append(row)
        self.console.print(f"{row.on:<10} {row.what:<52} {row.rate:>10,.0f}/s  {'' if row.exact else 'NOT EXACT'}")
        return row

    @property
    def exact(self) -> bool:
        return all(row.exact for row in self.rows)

    def print(self) -> None:
        table = Table(title=self.benchmark, title_justify="left", box=None, pad_edge=False, header_style="dim")
        for heading in ("what", "on", "count", "seconds", "rate/s", "exact", "note"):
            table.add_column(heading, justify="right" if heading in {"count", "seconds", "rate/s"} else "left")
        for row in self.rows:
            figures = (f"{row.count:,}", f"{row.seconds:.2f}", f"{row.rate:,.0f}", "yes" if row.exact else "NO")
            table.add_row(row.what, row.on, *figures, row.note)
        self.console.print(table)
        for name, value in self.ratios.items():
            self.console.print(f"{name}: {value:,.1f}")
        for name, figures in self.more.items():
            self.console.print(f"{name}: {figures}")

    def as_json(self) -> dict[str, Any]:
        rows = [{**asdict(row), "seconds": round(row.seconds, 3), "rate": round(row.rate, 1)} for row in self.rows]
        ratios = {name: round(value, 2) for name, value in self.ratios.items()}
        return {"benchmark": self.benchmark, "rows": rows, "ratios": ratios, **self.more, "exact": self.exact}

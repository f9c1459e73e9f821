"""The command line: `python -m benchmarks NAME [--quick] [--json]`."""

import argparse
import json
import sys

from benchmarks import enqueue, fanin, latency, launch, parallel, plain, serial
from benchmarks.report import Report

BENCHMARKS = {
    "serial": serial.run,
    "parallel": parallel.run,
    "enqueue": enqueue.run,
    "fanin": fanin.run,
    "launch": launch.run,
    "plain": plain.run,
    "latency": latency.run,
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure, side by side with the peers.")
    parser.add_argument("name", choices=BENCHMARKS, help="what to measure")
    parser.add_argument("--quick", action="store_true", help="small sizes: shows that it works, not how fast it is")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON on the last line")
    options = parser.parse_args()
    report: Report = BENCHMARKS[options.name](quick=options.quick)
    report.print()
    if options.json:
        print(json.dumps(report.as_json()))
    return 0 if report.exact else 1


if __name__ == "__main__":
    sys.exit(main())

"""The command line: `python -m benchmarks NAME [--quick] [--json]`."""

import argparse
import json
import os
import sys

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")
django.setup()  # the functions that measured systems call are imported here, too

from benchmarks import enqueue, fanin, latency, launch, million, parallel, peers, plain, scale, serial  # noqa: E402
from benchmarks.report import Report  # noqa: E402

BENCHMARKS = {
    "serial": serial.run,
    "parallel": parallel.run,
    "enqueue": enqueue.run,
    "fanin": fanin.run,
    "launch": launch.run,
    "plain": plain.run,
    "latency": latency.run,
    "scale": scale.run,
    "million": million.run,
    "peers": peers.run,
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

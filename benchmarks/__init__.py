"""Measurements, each side by side with what one would use instead: `python -m benchmarks NAME [--quick] [--json]`."""

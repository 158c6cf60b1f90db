"""Benchmarks: scripts that print ratios measured in one run; results are written to ``benchmarks/results``."""

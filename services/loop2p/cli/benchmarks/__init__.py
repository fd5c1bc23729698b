"""Benchmarks of the whole rig: what they start, what they measure, on which machine."""

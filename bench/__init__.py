"""Benchmarks on real data, each run alone as a module; not part of the installed package."""

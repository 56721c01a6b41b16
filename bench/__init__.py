"""Benchmarks on real data, each run alone as a module (``python -m bench.NAME``); not part of the installed package."""

import os

# Benches make stores of their own, which must not be those that somebody works with.
os.environ.pop("FACTSCALE_STORE", None)

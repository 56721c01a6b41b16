"""Performance, as ratios measured side by side in one run: ``python -m bench.NAME [--quick] [--check]``."""

import os

# Benches make stores of their own, which must not be those that somebody works with.
os.environ.pop("FACTSCALE_STORE", None)

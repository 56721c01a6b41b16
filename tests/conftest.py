"""What holds for every test."""

import os

# Printed tables are as wide as in a log file, also in a process of pytest-xdist, which sets the terminal's width.
os.environ["COLUMNS"] = "120"

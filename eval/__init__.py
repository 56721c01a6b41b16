"""Evaluation: benchmarks, answers, judges, statistics and the report."""

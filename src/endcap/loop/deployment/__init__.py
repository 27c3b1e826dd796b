"""Deployment: how a released version answers, and the log of what it answered.

Batch answers are written as partitioned Parquet, which is the prediction log itself. Nothing here decides which version answers.

Models that other code trained answer by engines; what a run logged becomes a version here, because it must open and answer first.
"""

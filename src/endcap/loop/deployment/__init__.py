"""Deployment: how a released version answers, and the log of what it answered.

Batch answers are written as partitioned Parquet, which is the prediction log itself. Nothing here decides which version answers.
"""

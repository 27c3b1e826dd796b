"""Forecasting: a value per series and day on coming days, to plan people and orders.

Candidates (baselines, shrunk rates, global trees, one model per member, their average), back-tests at rolling origins, conformal
intervals, and the task that the loop runs. Nothing here stores, releases or watches: the loop does.
"""

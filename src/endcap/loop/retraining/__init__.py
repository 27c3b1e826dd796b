"""Retraining: the one room where the circle closes: the order of a model's steps, when to train again, and what follows a breach.

It knows a model only by the protocol ``Task``; solutions implement it. Nothing here computes a figure of its own.
"""

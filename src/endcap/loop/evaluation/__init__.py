"""Evaluation: metrics, back-tests, slices, the gate and its verdict.

This room measures and judges; it releases nothing. A gate's checks are objects of the protocol ``Check`` that anyone may implement.
"""

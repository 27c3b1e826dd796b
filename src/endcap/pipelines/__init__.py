"""How work runs: a graph of steps, the runner that executes it, what each step cost, and the lineage between things.

Nothing here knows what a step computes; the order of a model's steps is decided in ``loop.retraining``.
"""

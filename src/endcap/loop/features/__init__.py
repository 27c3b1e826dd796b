"""Features: regular panels of series and days, the kernels that compute their features, and what may be seen at which instant.

A model never reads a table: it reads what this room lets it see. Nothing here fits, judges or stores a model.
"""

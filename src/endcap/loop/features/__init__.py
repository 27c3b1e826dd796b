"""Features: views and what was known of them at which instant, offline and online; and regular panels of series and days with their kernels.

A model never reads a table: it reads what this room lets it see. Nothing here fits, judges or releases a model.
"""

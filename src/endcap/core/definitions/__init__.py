"""What users write down: tables, forecasts, gates, watches. One file a room; plain frozen values that check themselves.

A definition opens nothing and computes nothing. Its identity is the hash of what it says.
"""

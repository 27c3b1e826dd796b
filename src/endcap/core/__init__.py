"""Words and rules, no I/O: errors, clock, identities, definitions, permissions, and what a verb is.

Anything here may be imported from anywhere. Nothing here opens a file, reads the time or draws a number.
"""

"""The registry: models as defined, versions with their files, releases with their history.

A version is immutable. The only way to make it answer is ``promote``, which asks for a passing verdict; ``rollback`` goes back one.
Nothing here trains or judges.
"""

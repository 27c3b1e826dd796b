"""The project: a folder with a definition file, what is applied from it and how its models run.

Loads and applies definitions, names which solution runs which model, runs turns of the cycle, and holds the table of verbs.
"""

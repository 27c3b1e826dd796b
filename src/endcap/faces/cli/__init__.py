"""The command line: one command a verb, made from the table of verbs.

``commands`` turns a verb's signature into options, ``rendering`` its result into tables, ``entry`` errors into exit codes.
"""

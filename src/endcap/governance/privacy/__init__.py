"""Personal values at rest: each under the key of whom it is about, so that to forget somebody is to destroy a key; and who may see them.

``records`` are the shelves on which the keys of subjects lie, ``subjects`` names subjects by keyed hashes and hands out their keys, ``sealing`` is
the arithmetic by columns, ``sealed_tables`` stands before the table store and seals what is declared on its way in, ``rights`` asks who may see.
What a subject is in a shop, which views hold it and what is to be done with models, is the business of the rooms above: nothing here knows a view.
"""

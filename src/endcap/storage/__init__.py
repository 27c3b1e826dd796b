"""Where things rest: ports that the house is written against, and the back ends behind them.

``ports`` says what a store must do, in the words of the house; ``opening`` turns a URL into ports; ``parquet`` is how tables are laid
down and read; ``files`` writes files that are there as a whole or not at all; ``liveness`` tells whether a process still lives. Back
ends live one file each in ``backends`` and are known to nobody else. No rule of the product lives here: a store neither judges nor
computes.
"""

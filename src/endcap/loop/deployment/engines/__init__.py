"""Engines: what answers with the files of a version that other libraries wrote. Tables of rows in, tables of answers out.

An engine is opened from bytes that were checked against their digest; its file is read strictly first (``endcap.loop.training.model_files``).
Which version answers, and whether it may, is not decided here.
"""

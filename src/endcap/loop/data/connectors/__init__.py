"""Connectors: how rows are fetched from what is no file, one file for each sort of source.

``relations`` says what a connector must do, ``opening`` chooses one by the scheme of a URL, ``addresses`` fills a URL from the environment
and keeps its password to itself. A connector describes and reads; it keeps nothing and judges nothing: what is fetched is kept by
``endcap.loop.data.landing``.
"""

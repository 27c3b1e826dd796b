"""The public test kit: contract suites that every back end passes, checks for models, and fakes such as a session that lives in memory.

What a user needs to test a project or a back end of their own lives here, on pytest and nothing else. What only Endcap's own tests
need never does; no product code imports it.
"""

"""Rights on single things, for the workspaces that ask for them: who owns a thing, whom a closed one is open to, and what is lent to others.

Without a closed thing roles alone decide, and nothing is read. Where one is closed the stores of a session are veiled: records and runs of what its
actor may not read are not there for it, by id, name, list or search, so that every verb on every face answers as it does of what never was; and what
they may read but not change is refused, audited, where the change begins. A right only narrows: whatever it says, the role must hold the
permission too. What a thing is, and who made it, is known above; nothing here knows a model from a table.
"""

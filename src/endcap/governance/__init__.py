"""Who acts, what they may, and what is remembered of it: sessions, verbs, the audit chain.

Every change goes through ``Session.change``, which writes the change and its audit row in one transaction. What a change means is
the business of the room that makes it; nothing here knows a model from a table.
"""

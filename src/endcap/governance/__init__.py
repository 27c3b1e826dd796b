"""Who acts, what they may, and what is remembered and told of it: people, groups, tokens, sessions, verbs, the audit chain, notices.

Every change goes through ``Session.change``, which asks whether who signed in still may, and writes the change and its audit row in one
transaction. What a change means is
the business of the room that makes it; nothing here knows a model from a table.
"""

"""Who acts, what they may, and what is remembered and told of it: people, groups, tokens, sessions, verbs, the audit chain, notices.

Every change goes through ``Session.change``, which writes the change and its audit row in one transaction. What a change means is
the business of the room that makes it; nothing here knows a model from a table. Rooms of its own have ``signin`` (pages, providers),
``rights`` (single things, shares), ``quotas`` (limits, the queue), ``keys`` (what is sealed, and under what) and ``privacy`` (keys of
whom values are about). A session hands out stores behind which all of them stand, so that no other room thinks of them.
"""

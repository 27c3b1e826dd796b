"""What is kept so that only the home can read it: the master key and where it comes from, the data keys of workspaces, what is sealed under them.

Three layers: the master key, outside the records, wraps data keys, which lie among the records, wrapped; those seal things. So the master key is
changed without touching what is sealed, and a data key without a moment in which nothing can be read. What is sealed, and who may read it, is
the business of the rooms: nothing here knows a webhook from a model.
"""

from endcap.governance.keys.envelopes import seal, seal_text, unseal, unseal_text

__all__ = ["seal", "seal_text", "unseal", "unseal_text"]

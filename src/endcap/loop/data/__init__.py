"""Tables: connectors to rows at rest, contracts that the rows must keep, profiles of what they hold and distances between profiles.

Here rows are found, identified, checked and described; they stay where they are. What is derived from them lives in ``features``,
what is concluded from a distance in ``monitoring``. Nothing here learns, writes to a source, or fetches over a network.
"""

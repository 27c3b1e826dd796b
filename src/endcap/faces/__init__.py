"""Faces: they list, parse and render the verbs of the rooms, and nothing more."""

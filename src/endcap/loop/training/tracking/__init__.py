"""Tracking: experiments and runs of anybody's training code, with parameters, numbers by step, tags, files, datasets, environment and cost.

What is followed while it happens goes to the port ``TrackStore``; experiments and models that a run logged are records. Nothing here judges or
releases: a version is made of a run's files by the registry, and only its gate lets it answer.
"""

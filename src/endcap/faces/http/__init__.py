"""HTTP: every verb that makes sense from afar at ``/api/v1/<its name>``, with a JSON body of its parameters; readers by GET too.

``remote`` says which verbs those are and types their parameters, ``gateway`` who is let in, ``application`` holds the routes, ``online`` the reads
that must answer within a millisecond, ``openapi`` the description, ``serving`` the process, ``mlflow`` the protocol of the MLflow client. Nothing is
decided here: a request is parsed, a verb is called as whoever asks, its result or error is written as JSON. Every error has the one shape of
``EndcapError.to_dict``.
"""

PORT = 8420
"""Where the service listens when nothing is said."""

"""The MLflow client protocol: what the unmodified ``mlflow`` client asks of a tracking server, answered by the rooms.

``protocol`` says what a call is, ``answers`` writes records in MLflow's shapes, ``faults`` its errors; the other modules hold the calls by what
they are about, ``refused`` those that Endcap does not have. Nothing is decided here. An alias or a stage that means a release goes through
``promote``, as everything that releases does.
"""

PROTOCOL = "3.17.2"
"""The version of MLflow whose protocol is spoken. Older clients ask for a part of it."""

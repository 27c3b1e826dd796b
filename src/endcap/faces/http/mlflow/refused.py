"""What MLflow has and Endcap does not: each refused in a sentence, with a status that the client does not ask again after."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from endcap.core.errors import NotOffered
from endcap.faces.http.mlflow.protocol import Pair
from endcap.storage.tracks import Condition


class Refused(NamedTuple):
    """Calls that are refused: where their paths begin (after ``/api/N.0/mlflow``), what they are about, and what to do instead."""

    path: str
    what: str
    instead: str


REFUSED = (
    Refused("/v1/traces", "traces", "trace with an OpenTelemetry collector; predictions are traced by `endcap trace`"),
    Refused("/traces", "traces", "trace with an OpenTelemetry collector; predictions are traced by `endcap trace`"),
    Refused("/unified-traces", "traces", "trace with an OpenTelemetry collector; predictions are traced by `endcap trace`"),
    Refused("/get-online-trace-details", "traces", "trace with an OpenTelemetry collector; predictions are traced by `endcap trace`"),
    Refused("/prompts", "prompts", "keep prompts with the code, under version control"),
    Refused("/prompt-optimization", "prompts", "keep prompts with the code, under version control"),
    Refused("/datasets", "evaluation datasets", "log the rows a version is judged by as `evidence.csv` in its run; see docs/gates.md"),
    Refused("/scorers", "evaluation by scorers", "a model's gate judges its versions; see docs/gates.md"),
    Refused("/assessments", "assessments of traces", "outcomes are ingested as a table"),
    Refused("/label-schemas", "labelling", "label elsewhere, then log the rows"),
    Refused("/review-queues", "labelling", "label elsewhere, then log the rows"),
    Refused("/issues", "issues of traces", "watches and incidents tell what is wrong"),
    Refused("/gateway", "the AI gateway", "call the provider of the language model itself"),
    Refused("/webhooks", "webhooks by this protocol", "endcap webhooks add"),
    Refused("/workspaces", "workspaces by this protocol", "choose one by the address: https://HOST/workspaces/NAME"),
    Refused("/artifacts/presigned-upload-url", "presigned addresses", "files go through the service: use the run's artifact_uri"),
    Refused("/artifacts/presigned-download-url", "presigned addresses", "files go through the service: use the run's artifact_uri"),
    Refused("/experiments/search-datasets", "a search for datasets alone", "search runs by dataset.name"),
    Refused("/registered-models/rename", "new names for models, as history and lineage go by the name", "register the versions under another name"),
    Refused("/registered-models/delete", "deleting models, which are kept with their history", "endcap retire MODEL"),
    Refused("/model-versions/delete", "deleting versions, which are kept with their verdicts and releases", "take its aliases and tags away"),
)
"""By the path they begin with, the first that fits. A test holds docs/mlflow.md to them."""
OTHERS = Refused("", "this call", "see docs/mlflow.md for the calls that are there")


PROMPT_TAG = "mlflow.prompt.is_prompt"


def refuse_prompts(tags: Iterable[Pair]) -> None:
    """Raise NotOffered where the tags of a model or a version say that it is a prompt, which clients keep among the models."""
    if any(tag.key == PROMPT_TAG for tag in tags):
        raise NotOffered("Endcap does not offer prompts.", hint="keep prompts with the code, under version control")


def drop_prompts(conditions: Iterable[Condition]) -> list[Condition]:
    """The conditions without the one by which clients leave prompts out of a search: nothing here is one, so every model meets it."""
    return [said for said in conditions if (said.family, said.name, said.operator) != ("tag", PROMPT_TAG, "!=")]


def find_refusal(path: str) -> Refused:
    """The refusal of a path after ``/mlflow``."""
    for refused in REFUSED:
        if path == refused.path or path.startswith(refused.path + "/"):
            return refused
    return OTHERS


def describe_refusal(refused: Refused, path: str) -> NotOffered:
    """What the client is told."""
    what = f"Endcap does not offer {refused.what} ({path[:200]})." if refused is not OTHERS else f"Endcap does not know the call {path[:200]!r}."
    return NotOffered(what, hint=refused.instead)

"""Errors in MLflow's shape: what the client's code looks at, beside what every other face tells."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from endcap.core.errors import EndcapError
from endcap.faces.http.answers import encode_result

FAULTS = {
    "error": ("INTERNAL_ERROR", 500),
    "invalid_input": ("INVALID_PARAMETER_VALUE", 400),
    "invalid_definition": ("INVALID_PARAMETER_VALUE", 400),
    "contract_broken": ("INVALID_PARAMETER_VALUE", 400),
    "not_offered": ("NOT_IMPLEMENTED", 501),
    "not_found": ("RESOURCE_DOES_NOT_EXIST", 404),
    "permission_denied": ("PERMISSION_DENIED", 403),
    "not_signed_in": ("UNAUTHENTICATED", 401),
    "conflict": ("RESOURCE_CONFLICT", 409),
    "lease_lost": ("RESOURCE_CONFLICT", 409),
    "gate_refused": ("PERMISSION_DENIED", 403),
    "integrity_broken": ("DATA_LOSS", 422),
    "step_failed": ("INTERNAL_ERROR", 422),
    "storage_full": ("RESOURCE_EXHAUSTED", 507),
    "quota_exceeded": ("REQUEST_LIMIT_EXCEEDED", 429),
    "unreachable": ("TEMPORARILY_UNAVAILABLE", 503),
    "lost_connection": ("TEMPORARILY_UNAVAILABLE", 503),
    "step_timed_out": ("DEADLINE_EXCEEDED", 422),
}
"""By an error's code: what the client knows it by, and the status. The client asks again, for minutes, after 408, 429, 500, 502, 503 and 504:
only what may pass by itself has one of these."""


def describe_fault(error: EndcapError, *, fault: str = "") -> dict[str, Any]:
    """The body of an error: ``error_code`` and ``message`` for the client, and the one shape of the house. ``fault`` is a better name than the
    error's code gives.
    """
    told = error.to_dict()
    message = f"{told['error']} Hint: {told['hint']}" if "hint" in told else told["error"]
    return {"error_code": fault or FAULTS[error.code][0], "message": message, **told}


def answer_fault(error: EndcapError, *, fault: str = "", status: int | None = None) -> Response:
    """An error as an answer."""
    body = encode_result(describe_fault(error, fault=fault))
    return Response(body, status_code=status or FAULTS[error.code][1], media_type="application/json")

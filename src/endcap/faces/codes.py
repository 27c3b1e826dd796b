"""What the outside gets for an error's code: the shell its exit code, a client of HTTP its status. A test holds both to the tree of errors."""

from __future__ import annotations

EXIT_CODES = {
    "error": 1,
    "invalid_input": 2,
    "invalid_definition": 2,
    "contract_broken": 2,
    "not_offered": 2,
    "not_found": 3,
    "permission_denied": 4,
    "not_signed_in": 4,
    "conflict": 5,
    "lease_lost": 5,
    "gate_refused": 6,
    "integrity_broken": 7,
    "step_failed": 8,
    "storage_full": 9,
    "quota_exceeded": 11,
    "unreachable": 10,
    "lost_connection": 10,
    "step_timed_out": 8,
}
"""What the shell gets: 0 done, 1 unforeseen (and a reader that went away), 2 bad input (wrong options too), and so on by the error's code."""

HTTP_STATUSES = {
    "error": 500,
    "invalid_input": 400,
    "invalid_definition": 422,
    "contract_broken": 422,
    "not_offered": 501,
    "not_found": 404,
    "permission_denied": 403,
    "not_signed_in": 401,
    "conflict": 409,
    "lease_lost": 409,
    "gate_refused": 422,
    "integrity_broken": 500,
    "step_failed": 500,
    "storage_full": 507,
    "quota_exceeded": 429,
    "unreachable": 503,
    "lost_connection": 503,
    "step_timed_out": 504,
}
"""What a client of HTTP gets: 400 what was sent is wrong, 422 what it names here is (a definition, rows, a version without a passing verdict).

A request that never reaches a verb has its own: 403 from another site or by another name, 404 no such path, 405 method, 408 too slow, 413 too
large, 415 not JSON, 429 too many guesses; with the same body.
"""

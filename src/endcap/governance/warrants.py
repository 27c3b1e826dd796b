"""Warrants: whether somebody who signed in may still act as they did then.

A run goes on long after its owner signed in. It holds what they held at that moment, so before each change, and between the steps of a run, it is
asked again: else a job would do for somebody what they may no longer do themselves (Norm Hardy, "The Confused Deputy", 1988).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from endcap.core.permissions import Role, permissions_of
from endcap.governance.records import HOUSE, TOKENS, USERS
from endcap.governance.tokens import held_role
from endcap.storage.ports import RecordReader


@dataclass(frozen=True)
class UserWarrant:
    """What a user signed in with: a role in a workspace, ``admin`` of the house or not, by a token (its id; '' for another way)."""

    user: str
    workspace: str
    role: Role
    admin: bool = False
    token: str = ""

    def find_lost(self, records: RecordReader, now: datetime) -> str | None:
        """Why they may no longer act so, as a sentence's beginning; None while they may. Cost: three reads, with a token four, in groups one more."""
        user = records.get(USERS, workspace=HOUSE, id=self.user)
        if user is None or user.disabled:
            return f"'{self.user}' was disabled"
        if self.admin and not user.admin:
            return f"'{self.user}' does not administer the house any more"
        if self.token:
            token = records.get(TOKENS, workspace=HOUSE, id=self.token)
            if token is None or token.revoked_at is not None:
                return f"the token '{self.token}' was revoked"
            if now >= token.expires_at:
                return f"the token '{self.token}' expired"
        held = held_role(records, user=self.user, workspace=self.workspace)
        if held is None or not permissions_of(self.role) <= permissions_of(held):
            return f"'{self.user}' is not {self.role} in workspace '{self.workspace}' any more"
        return None

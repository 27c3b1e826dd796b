"""The table of verbs: every public function of the rooms, from which the faces and the reference pages come."""

from __future__ import annotations

from functools import lru_cache
from importlib import import_module

from endcap.governance.verbs import Verb, collect_verbs

MODULES = (
    "endcap.governance.audit",
    "endcap.governance.audit_exports",
    "endcap.governance.audit_heads",
    "endcap.governance.audit_keys",
    "endcap.governance.keys.rotation",
    "endcap.governance.keys.secrets",
    "endcap.governance.groups",
    "endcap.governance.notices",
    "endcap.governance.people",
    "endcap.governance.quotas.costs",
    "endcap.governance.quotas.queue",
    "endcap.governance.quotas.recounting",
    "endcap.governance.quotas.settling",
    "endcap.governance.setting_up",
    "endcap.governance.signin.identities",
    "endcap.governance.signin.page_sessions",
    "endcap.governance.signin.providers",
    "endcap.governance.tokens",
    "endcap.governance.webhooks",
    "endcap.pipelines.verbs",
    "endcap.loop.data.verbs",
    "endcap.loop.features.online",
    "endcap.loop.features.pushes",
    "endcap.loop.features.drift",
    "endcap.loop.features.catalogue",
    "endcap.loop.features.kept.materialisation",
    "endcap.loop.features.parity",
    "endcap.loop.features.training_sets",
    "endcap.loop.training.tracking.experiments",
    "endcap.loop.training.tracking.tracked_runs",
    "endcap.loop.training.tracking.run_files",
    "endcap.loop.training.tracking.run_downloads",
    "endcap.loop.training.tracking.comparing",
    "endcap.loop.registry.versions",
    "endcap.loop.registry.naming",
    "endcap.loop.registry.card_pages",
    "endcap.loop.registry.comparisons",
    "endcap.loop.registry.approvals",
    "endcap.loop.registry.downloads",
    "endcap.loop.registry.environments",
    "endcap.loop.registry.overrides",
    "endcap.loop.registry.pins",
    "endcap.loop.registry.releases",
    "endcap.loop.registry.seats",
    "endcap.loop.registry.members",
    "endcap.loop.deployment.batches",
    "endcap.loop.deployment.deliveries",
    "endcap.loop.deployment.tracing",
    "endcap.loop.deployment.registering",
    "endcap.loop.deployment.lineage",
    "endcap.loop.deployment.retirement",
    "endcap.loop.monitoring.quality",
    "endcap.loop.monitoring.members",
    "endcap.loop.monitoring.insights",
    "endcap.loop.monitoring.comparisons",
    "endcap.project.applying",
    "endcap.project.backups",
    "endcap.project.forgetting",
    "endcap.project.judging",
    "endcap.project.retention",
    "endcap.project.returning",
    "endcap.project.rights",
    "endcap.project.running",
    "endcap.project.sharing",
    "endcap.project.sealing",
    "endcap.project.showing",
    "endcap.project.starting",
    "endcap.project.view_pages",
    "endcap.project.view_showing",
)


@lru_cache(maxsize=1)
def load_verbs() -> dict[str, Verb]:
    """All verbs by name. A test walks the package and fails on a verb in a module that is not listed here."""
    return collect_verbs(*(import_module(name) for name in MODULES))

from __future__ import annotations

import importlib
import pkgutil

import endcap
from endcap.project.kinds import load_kinds
from endcap.storage.ports import Kind


def test_every_kind_of_the_package_stands_in_the_table() -> None:
    kinds = load_kinds()
    for found in pkgutil.walk_packages(endcap.__path__, "endcap."):
        if found.name.startswith("endcap.testing"):
            continue
        for kind in vars(importlib.import_module(found.name)).values():
            if isinstance(kind, Kind):
                assert kind.name in kinds, f"{found.name} has the kind '{kind.name}', and no module of endcap.project.kinds.MODULES has it"
                listed = kinds[kind.name]
                assert (kind.id, set(kind.indexes) - set(listed.indexes)) == (listed.id, set()), f"'{kind.name}' of {found.name} is found by more"

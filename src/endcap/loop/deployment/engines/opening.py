"""Opening the engine of a version."""

from __future__ import annotations

from endcap.core.errors import InvalidInput, suggest
from endcap.governance.sessions import Session
from endcap.loop.deployment.engines.engine import Engine
from endcap.loop.registry.records import Version
from endcap.loop.registry.versions import read_file

ENGINES = ("lightgbm", "onnx", "skops")
"""What answers, by the kind of file. ``skops:predict_proba`` answers by another method than ``predict``."""


def open_engine(engine: str, payload: bytes) -> Engine:
    """The engine over the bytes of a model file. Raises InvalidInput for bytes that are no such model. The library is imported here."""
    kind, _, method = engine.partition(":")
    if kind == "lightgbm":
        from endcap.loop.deployment.engines.lightgbm_engine import LightgbmEngine

        return LightgbmEngine(payload)
    if kind == "skops":
        from endcap.loop.deployment.engines.skops_engine import SkopsEngine

        return SkopsEngine(payload, method=method or "predict")
    if kind == "onnx":
        from endcap.loop.deployment.engines.onnx_engine import OnnxEngine

        return OnnxEngine(payload)
    raise InvalidInput(f"{engine!r} is no engine. Engines: {list(ENGINES)}.", hint=suggest(kind, ENGINES))


def open_version(session: Session, version: Version) -> Engine:
    """The engine of a version, over its file as it was checked against its digest.

    Raises InvalidInput for a version that its own solution answers for, IntegrityBroken when its file was changed or is gone.
    """
    kind = version.engine.partition(":")[0]
    file = next((file for file in version.files if file.kind == kind), None)
    if file is None:
        raise InvalidInput(f"'{version.id}' has no engine of its own: the solution of model '{version.model}' answers for it.")
    return open_engine(version.engine, read_file(session, version, file.name).payload)

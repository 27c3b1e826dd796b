from __future__ import annotations

import signal
from pathlib import Path

import pytest

from endcap.assembly import House
from endcap.faces.http.serving import serve


def test_signals_are_given_back(house: House, tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    said: list[str] = []

    def stop(url: str) -> None:
        said.append(url)
        signal.raise_signal(signal.SIGTERM)

    with pytest.raises(SystemExit) as left:
        serve(house, folder=tmp_path, port=0, announce=stop)
    assert left.value.code == 0
    assert said[0].startswith("http://127.0.0.1:")
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before

from __future__ import annotations

import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from endcap.storage.landing import LandingFolder


def test_a_folder_of_a_home_is_made_when_it_is_asked_for_and_stays(tmp_path: Path) -> None:
    landing = LandingFolder(tmp_path / "home" / "landed")
    assert list(tmp_path.iterdir()) == []
    assert stat.S_IMODE(landing.path.stat().st_mode) == 0o700
    landing.close()
    assert landing.path.is_dir()


def test_a_temporary_folder_goes_when_it_is_closed_and_may_be_made_again() -> None:
    landing = LandingFolder()
    first = landing.path
    assert landing.path == first
    assert stat.S_IMODE(first.stat().st_mode) == 0o700
    landing.close()
    assert not first.exists()
    second = landing.path
    assert second.is_dir()
    landing.close()


def test_it_goes_with_its_process_and_what_a_killed_one_left_goes_with_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make = (
        "import os; from endcap.storage.landing import LandingFolder; kept = LandingFolder(); (kept.path / 'a').touch(); print(kept.path, flush=True)"
    )
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    ended = subprocess.run([sys.executable, "-c", make], capture_output=True, text=True, check=True)
    assert not Path(ended.stdout.strip()).exists()
    killed = subprocess.run([sys.executable, "-c", f"{make}; os.kill(os.getpid(), 9)"], capture_output=True, text=True, check=False)
    left = Path(killed.stdout.strip())
    assert left.is_dir()
    monkeypatch.setattr(tempfile, "tempdir", None)
    landing = LandingFolder()
    assert landing.path.parent == tmp_path
    assert not left.exists()
    landing.close()

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from endcap.governance.holders import Holder, Holds
from endcap.storage.liveness import identify_machine, read_beginning

SLEEPING = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(600)"]


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    started = subprocess.Popen(SLEEPING, stdout=subprocess.PIPE)
    assert started.stdout is not None
    started.stdout.readline()
    yield started
    started.kill()
    started.communicate()


def holder_of(pid: int) -> Holder:
    return Holder("here", identify_machine(), pid, read_beginning(pid) or "", 1)


def test_a_living_process_is_not_gone_and_a_killed_one_is_at_once(child: subprocess.Popen[bytes]) -> None:
    holds, holder = Holds(), holder_of(child.pid)
    assert not holds.is_gone(holder)
    os.kill(child.pid, signal.SIGKILL)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # dead, and nobody has asked after it yet
    assert holds.is_gone(holder)
    child.wait()
    assert holds.is_gone(holder)


def test_a_stopped_process_is_not_gone(child: subprocess.Popen[bytes]) -> None:
    os.kill(child.pid, signal.SIGSTOP)
    assert not Holds().is_gone(holder_of(child.pid))


def test_a_later_process_of_the_same_number_is_another(child: subprocess.Popen[bytes]) -> None:
    assert Holds().is_gone(msgspec.structs.replace(holder_of(child.pid), began="5"))


def test_nothing_is_known_of_another_machine(child: subprocess.Popen[bytes]) -> None:
    holder = msgspec.structs.replace(holder_of(child.pid), machine="another")
    child.kill()
    child.wait()
    assert not Holds().is_gone(holder)


def test_holds_of_one_process_are_told_apart() -> None:
    holds = Holds()
    first, second = holds.begin(), holds.begin()
    assert first != second
    assert not holds.is_gone(first)
    holds.end(first)
    holds.end(first)
    assert holds.is_gone(first)
    assert not holds.is_gone(second)


def test_a_process_that_never_was_has_no_beginning() -> None:
    assert read_beginning(2**22 + 1) is None
    assert read_beginning(os.getpid()) == read_beginning(os.getpid()) is not None


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
def test_a_program_s_name_does_not_confuse(tmp_path: Path) -> None:
    program = tmp_path / ") Z 1 ("
    program.symlink_to("/bin/sleep")
    with subprocess.Popen([program, "600"]) as child:
        assert read_beginning(child.pid) not in (None, "gone")
        assert (read_beginning(child.pid) or "").isdigit()
        child.kill()

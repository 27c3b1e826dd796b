"""Services: the processes that answer for a home, so that nobody puts another home under their feet."""

from __future__ import annotations

import os
import socket
from datetime import datetime

from endcap.governance.records import HOUSE, SERVICES, Service
from endcap.storage.liveness import has_ended, identify_machine, read_beginning
from endcap.storage.ports import RecordReader, RecordStore


def note_service(records: RecordStore, url: str, *, now: datetime) -> Service:
    """Say that this process answers for the home from now on, in the place of an earlier one at the same address of this machine."""
    pid, host = os.getpid(), socket.gethostname()
    service = Service(id=f"{host}/{url}", host=host, machine=identify_machine(), pid=pid, began=read_beginning(pid) or "", since=now)
    with records.transact() as tx:
        _, version = tx.get_versioned(SERVICES, workspace=HOUSE, id=service.id) or (None, 0)
        tx.put(SERVICES, workspace=HOUSE, record=service, expected_version=version)
    return service


def list_running(records: RecordReader) -> list[Service]:
    """The processes of this machine that answer for the home. Whether one of another machine still runs cannot be seen; it is not among them."""
    here = identify_machine()
    found = records.find(SERVICES, workspace=HOUSE)
    return [service for service in found if service.machine == here and not has_ended(service.machine, service.pid, service.began)]

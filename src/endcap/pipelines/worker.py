"""The far side of an executor: computes one item, and for ``processes`` the loop that reads items from a pipe and answers.

Nothing heavy is imported here: the environment with the number of threads counts for what the function imports.
"""

from __future__ import annotations

import fcntl
import os
import pickle
import select
import signal
import traceback
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection
from typing import Any, NoReturn

from endcap.core.errors import EndcapError, InvalidInput, StepFailed
from endcap.pipelines.calls import pack

FUNCTION, ITEM, VALUE, ERROR = b"function", b"item", b"value", b"error"


class FarTraceback(Exception):
    """Where an error was raised in another process, as text: the cause of the error raised here."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


def serve(channel: int, watch: int) -> None:
    """Answer until the channel closes. ``watch`` is the reading end of a pipe whose other end only the parent holds."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent, interrupted, ends its workers
    for descriptor in (channel, watch):
        os.set_inheritable(descriptor, False)
    _die_with_parent(watch)
    function: Callable[[Any], Any] = partial(_refuse, "no function came before the first item")
    with Connection(channel) as connection, suppress(EOFError, OSError):
        while True:
            subject, body = connection.recv_bytes(), connection.recv_bytes()
            if subject == FUNCTION:
                function = _read_function(body)
                continue
            done, answer = compute(function, body)
            del body
            connection.send_bytes(VALUE if done else ERROR)
            connection.send_bytes(answer)


def compute(function: Callable[[Any], Any], item: bytes) -> tuple[bool, bytes]:
    """Call the function on a packed item: True and the packed result, or False and the packed error with the text of its traceback."""
    try:
        return True, pack(function(_read(item)), what="The result of an item")
    except BaseException as error:  # noqa: BLE001 - the edge of a worker: carried to the parent and raised there
        return False, _pack_error(error)


def read_error(answer: bytes) -> BaseException:
    """The error that a packed answer holds, with its traceback as its cause."""
    error, text = pickle.loads(answer)
    error.__cause__ = FarTraceback(text)
    return error


def _pack_error(error: BaseException) -> bytes:
    text = "".join(traceback.format_exception(error))
    with suppress(Exception):  # whatever a foreign class does when it is packed or read: then its text travels
        packed = pickle.dumps((error, text))
        if type(pickle.loads(packed)[0]) is type(error):
            return packed
    plain: EndcapError = StepFailed(f"{type(error).__name__}: {error}")
    if isinstance(error, EndcapError):
        with suppress(TypeError):  # a subclass with arguments of its own
            plain = type(error)(error.what, hint=error.hint, **error.to_dict().get("details", {}))
    return pickle.dumps((plain, text))


def _read(body: bytes) -> Any:
    try:
        return pickle.loads(body)
    except (ImportError, AttributeError) as error:
        raise InvalidInput(
            f"Another process cannot read what it was sent: {error}.",
            hint="define functions and types in a module that can be imported, not in the script or project.py itself",
        ) from error


def _read_function(body: bytes) -> Callable[[Any], Any]:
    try:
        function: Callable[[Any], Any] = _read(body)
    except Exception as error:  # noqa: BLE001 - raised again by every item, so that the parent hears it
        return partial(_raise, error)
    return function


def _raise(error: Exception, _item: object) -> NoReturn:
    raise error


def _refuse(text: str, _item: object) -> NoReturn:
    raise StepFailed(f"The worker was asked to compute, but {text}.")


def _die_with_parent(watch: int) -> None:
    """Have the kernel end this process when the parent is gone, whatever either of them is doing.

    The kernel signals the reader of a pipe whose last writer closes (``O_ASYNC``), and the signal's default action ends the process: it
    needs no thread that a long computation could starve, and unlike ``PR_SET_PDEATHSIG`` it does not fire when only the thread that
    started the worker ends.
    """
    signal.signal(signal.SIGIO, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGIO})
    fcntl.fcntl(watch, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(watch, fcntl.F_SETFL, fcntl.fcntl(watch, fcntl.F_GETFL) | os.O_ASYNC)
    if select.select([watch], [], [], 0)[0]:  # it went before we listened
        os._exit(1)

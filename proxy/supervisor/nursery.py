"""The process that forks workers, and its supervisor's hold on it."""

import contextlib
import os
import selectors
import signal
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Final, NoReturn

from proxy.supervisor import channel
from proxy.supervisor.channel import Channel, Message

Birth = Callable[[Message, Sequence[int]], int]
"""What a new worker does: with the order and the descriptors of `Nursery.start`. Returns its exit code."""

FAILED: Final = 1
LEFT_TO_SUPERVISOR: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Signals that a terminal or a service manager sends to a whole group of processes."""


class Nursery:
    """The supervisor's hold on the process that forks workers.

    Args:
        give_birth: what a worker does.

    Attributes:
        pid: of the process.
    """

    def __init__(self, give_birth: Birth) -> None:
        # What is forked here must be able to fork: see the package.
        assert threading.active_count() == 1, "the nursery is forked before there are threads"
        self._end, other = channel.pair()
        for stream in (sys.stdout, sys.stderr):
            stream.flush()  # else both processes would write what is buffered
        # A signal that comes while the new process does not ignore it yet would end it.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, LEFT_TO_SUPERVISOR)
        self.pid = os.fork()
        if not self.pid:
            self._end.close()
            _serve(other, give_birth)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        other.close()
        self._channel: Channel | None = None

    def follow(
        self, born: Callable[[str, int], None], died: Callable[[str, int], None], lost: Callable[[], None]
    ) -> None:
        """Hear of workers from now on, on the running event loop.

        Args:
            born: called with the name and process id of one that was forked.
            died: called with the name and exit code of one that has ended; -9 for one ended by signal 9. A worker
                that could not be forked has the code 1.
            lost: called when the nursery itself has ended.
        """

        def received(message: Message) -> None:
            if "pid" in message:
                born(message["name"], message["pid"])
            else:
                died(message["name"], message["code"])

        self._channel = Channel(self._end, received, lost)

    def start(self, name: str, order: Message, descriptors: Sequence[int]) -> None:
        """Have a worker forked. It gets `order` with its name, and copies of `descriptors`."""
        assert self._channel is not None
        self._channel.send({**order, "name": name}, descriptors)

    def kill(self, name: str, number: signal.Signals) -> None:
        """Send a signal to the worker that goes by `name`, if it is alive. No other process can be hit by it."""
        if self._channel is not None:
            self._channel.send({"kill": number.value, "name": name})

    def close(self) -> None:
        """Let the process end, and wait for it. Workers that are left notice the end of the supervisor themselves."""
        if self._channel is not None:
            self._channel.close()
        self._end.close()
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, 0)


def _serve(end: socket.socket, give_birth: Birth) -> NoReturn:
    """The nursery's life: until its supervisor is gone."""
    code = FAILED
    try:
        for number in LEFT_TO_SUPERVISOR:
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, LEFT_TO_SUPERVISOR)
        code = _Forks(end, give_birth).run()
    except BaseException as error:  # noqa: BLE001 — nothing may unwind into the frames that were forked
        sys.excepthook(type(error), error, error.__traceback__)
    finally:
        _end_process(code)


class _Forks:
    """In the nursery: forks, and waits for what it forked."""

    def __init__(self, end: socket.socket, give_birth: Birth) -> None:
        self._end = end
        self._give_birth = give_birth
        self._names: dict[int, str] = {}  # by process id; those that have not been waited for
        self._woken, self._waker = os.pipe()
        for descriptor in (self._woken, self._waker):
            os.set_blocking(descriptor, False)
        signal.set_wakeup_fd(self._waker, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # without a handler nothing is written to the pipe

    def run(self) -> int:
        """Until the other end is gone; 0. In a new worker: until that has ended; its exit code."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._end, selectors.EVENT_READ)
            selector.register(self._woken, selectors.EVENT_READ)
            while True:
                ready = {key.fileobj for key, _ in selector.select()}
                if self._woken in ready:
                    with contextlib.suppress(BlockingIOError):
                        os.read(self._woken, 4096)
                    self._reap()
                if self._end in ready:
                    message, descriptors = channel.receive(self._end)
                    if message is None:
                        return 0
                    if "kill" in message:
                        self._kill(message)
                    elif not self._fork(message, descriptors):
                        selector.close()
                        return self._begin(message, descriptors)

    def _fork(self, message: Message, descriptors: Sequence[int]) -> int:
        """The process id of a new worker, and 0 in it."""
        name: str = message["name"]
        try:
            pid = os.fork()
        except OSError as error:
            sys.stderr.write(f"sidecache: cannot fork a worker: {error}\n")
            self._tell({"name": name, "code": FAILED})
            pid = -1
        if pid:
            for descriptor in descriptors:
                os.close(descriptor)
        if pid > 0:
            self._names[pid] = name
            self._tell({"name": name, "pid": pid})
        return pid

    def _begin(self, message: Message, descriptors: Sequence[int]) -> int:
        """In a new worker: let go of what is the nursery's, and work."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for descriptor in (self._woken, self._waker):
            os.close(descriptor)
        self._end.close()
        return self._give_birth(message, descriptors)

    def _kill(self, message: Message) -> None:
        for pid, name in self._names.items():
            if name == message["name"]:  # not waited for yet: its process id is nobody else's
                os.kill(pid, message["kill"])

    def _reap(self) -> None:
        while self._names:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            name = self._names.pop(pid, None)
            if name is not None:
                self._tell({"name": name, "code": os.waitstatus_to_exitcode(status)})

    def _tell(self, message: Message) -> None:
        with contextlib.suppress(OSError):  # the supervisor is gone, which the next read will say
            channel.send(self._end, message)


def _end_process(code: int) -> NoReturn:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)

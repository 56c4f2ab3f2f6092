"""Processes that make batches ahead of time, and that neither hang nor stay behind.

Each worker has a pipe of its own and answers its requests in their order; batch i belongs to worker i modulo their
number. So nothing is shared that a dying worker could leave locked, and the batches need no sorting.
"""

from __future__ import annotations

import contextlib
import os
import pickle  # of our own objects between our own processes: no file is ever unpickled
import queue
import signal
import threading
import time
import traceback
import weakref
from collections.abc import Callable, Iterator
from multiprocessing import connection, get_context, resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any

PATIENCE = 1.0  # seconds that all workers together get to end by themselves before they are ended


class WorkerError(RuntimeError):
    """A worker process died, or its dataset raised: then that error is the cause, and its traceback in the text."""


class Pool:
    """`count` processes that call `make(epoch, number)`; ended by `close`, the garbage collector or the interpreter.

    Raises TypeError if `make` cannot be pickled, WorkerError if a process cannot be started.
    """

    def __init__(self, make: Callable[[int, int], Any], count: int):
        try:
            payload = pickle.dumps(make)
        except Exception as error:
            raise TypeError(
                f"num_workers is {count}: the dataset has to be pickled to be sent to them, which failed: {error}"
            ) from error
        self._workers: list[tuple[SpawnProcess, Connection]] = []
        self.close = weakref.finalize(self, _end, self._workers, os.getpid())
        context = get_context("spawn")
        resource_tracker.ensure_running()  # starting it would lift the block below
        # Ctrl-C is the main process's business: workers inherit the block, and have it from their first moment on
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            for k in range(count):
                mine, theirs = context.Pipe()
                process = context.Process(target=_work, args=(theirs, payload), name=f"minidl-data-{k}", daemon=True)
                try:
                    process.start()
                except OSError as error:
                    mine.close()
                    raise WorkerError(f"worker {k} could not be started: {error}. {HINT}") from error
                finally:
                    theirs.close()
                self._workers.append((process, mine))
        except BaseException:
            self.close()
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def batches(self, epoch: int, first: int, stop: int, ahead: int) -> Iterator[Any]:
        """Batches first..stop-1 of an epoch in their order, of which up to `ahead` are asked for at a time."""
        asked = first
        for i in range(first, stop):
            while asked < min(stop, i + ahead):
                self._ask(asked % len(self._workers), epoch, asked)
                asked += 1
            yield self._take(i % len(self._workers), epoch, i)

    def _ask(self, worker: int, epoch: int, number: int) -> None:
        with contextlib.suppress(OSError):  # it is dead, which _take will tell when its turn comes
            self._workers[worker][1].send((epoch, number))

    def _take(self, worker: int, epoch: int, number: int) -> Any:
        process, pipe = self._workers[worker]
        what = f"batch {number} of epoch {epoch}"
        connection.wait([pipe, process.sentinel])
        try:
            if not pipe.poll():
                raise EOFError
            made, answer = pickle.loads(pipe.recv_bytes())
        except (EOFError, OSError):
            process.join(PATIENCE)
            raise WorkerError(f"worker {worker} died before it delivered {what}: {_death(process.exitcode)}") from None
        if made:
            return answer
        summary, notes, text, pickled = answer
        raise WorkerError(
            f"worker {worker} failed in {what}{notes}: {summary}\n\nIn the worker:\n\n{text}"
        ) from _unpickled(pickled)


HINT = (
    "What it wrote to stderr says why. A script that uses workers has to keep what it runs under "
    'if __name__ == "__main__": and has to be a file'
)


def _death(code: int | None) -> str:
    if code is None:
        return "it closed its pipe"
    if code >= 0:
        return f"exit code {code}. {HINT}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    memory = "; often that means that memory ran out: use fewer workers or smaller batches" if code == -9 else ""
    return f"{name}{memory}"


def _end(workers: list[tuple[SpawnProcess, Connection]], owner: int) -> None:
    """End the processes: those that wait see their pipe close, the others get a signal."""
    if os.getpid() != owner:  # a fork of the main process owns none of them
        return
    for _, pipe in workers:
        pipe.close()
    for stop in (None, SpawnProcess.terminate, SpawnProcess.kill):
        alive = [process for process, _ in workers if process.exitcode is None]
        for process in alive:
            if stop is not None:
                stop(process)
        until = time.monotonic() + PATIENCE
        for process in alive:
            process.join(max(0.0, until - time.monotonic()))
    for process, _ in workers:
        if process.exitcode is not None:
            process.close()
    workers.clear()


def _work(pipe: Connection, payload: bytes) -> None:
    """The life of a worker: answer requests until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    from threadpoolctl import threadpool_limits

    threadpool_limits(1)  # the processes are the parallelism
    make: Callable[[int, int], Any] | None = None
    answers: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    # a thread sends, because a full pipe would keep this one from making the next batch
    threading.Thread(target=_send, args=(pipe, answers), daemon=True).start()
    while True:
        try:
            epoch, number = pipe.recv()
        except (EOFError, OSError):
            return
        try:
            make = make or pickle.loads(payload)
            answer = pickle.dumps((True, make(epoch, number)), protocol=5)
        except BaseException as error:
            answer = pickle.dumps((False, _failure(error)))
        answers.put(answer)


def _send(pipe: Connection, answers: queue.SimpleQueue[bytes]) -> None:
    parent = os.getppid()
    while True:
        try:
            pipe.send_bytes(answers.get(timeout=1))
        except queue.Empty:
            if os.getppid() != parent:  # killed, while a long item keeps the other thread from seeing the pipe close
                os._exit(0)
        except OSError:
            os._exit(0)  # nobody is there to read it


def _failure(error: BaseException) -> tuple[str, str, str, bytes | None]:
    """What the main process needs to know of an error: summary, notes, traceback, and if possible the error itself."""
    notes = "".join(f", {note}" for note in getattr(error, "__notes__", ()))
    text = "".join(traceback.format_exception(error))
    try:
        pickled = pickle.dumps(error)
        pickle.loads(pickled)
    except Exception:
        pickled = None  # an error of many arguments, or one that holds a file: the text has to do
    return f"{type(error).__name__}: {error}", notes, text, pickled


def _unpickled(pickled: bytes | None) -> BaseException | None:
    try:
        return None if pickled is None else pickle.loads(pickled)
    except Exception:
        return None

"""A role: one Celery worker on one queue, whose children hold the database, the step bodies and the model.

The one task says "look at queue X"; the child then does every due job of that queue. Children are spawned,
so everything they need is named by strings: the task by `include`, the bodies by `flow.STEPS`.
"""

import importlib
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from billiard.process import current_process
from celery import Celery, current_app, shared_task, signals
from sqlalchemy.exc import DBAPIError

from casebook import queue
from casebook.case import Job
from casebook.errors import LostLease, WetreadError
from casebook.flow import STEPS
from casebook.heartbeat import Heartbeat
from casebook.logs import configure_logs, get_logger
from casebook.pipelines import Pipeline
from casebook.private_files import begin_process
from casebook.runner import Body, Gate, Runner, keep_lease
from casebook.settings import Settings, load_settings
from casebook.wakeups import LOOK_TASK, build_app, queue_name, remove_damaged, waker
from casebook.watchdog import ExitCode, Watchdog, kernel_timer, start_vital
from casebook.wiring import Wiring, wire

#: Seconds a job in hand may go on after the role was told to stop; then it is given back, uncounted.
GIVE_BACK_AFTER_S = 20.0
#: Tells a child to take no further job. Celery gives its children SIGTERM only to end them at once.
_STOP_SIGNAL = signal.SIGUSR2
#: Steps after whose unforeseen errors the process ends: what a fault left on the device meets every later study.
_ENDS_ITS_PROCESS = frozenset({"read"})
#: Seconds between two looks of a parent at its children, and of a child at its parent; leases outlast it by far.
_LOOK_AT_FAMILY_S = 0.5
#: Names of the threads of billiard's pool.
_POOL_THREADS = ("_worker_handler", "_task_handler", "_result_handler")
_BODIES_KEY = "wetread_bodies"
_GATES_KEY = "wetread_gates"
_log = get_logger()

#: What a body module may offer as `warm`: it loads once what every job needs.
Warm = Callable[[Settings, Sequence[Pipeline]], None]


def build_role_app(
    role: str, *, concurrency: int = 1, bodies: Mapping[str, str] | None = None, settings: Settings | None = None
) -> Celery:
    """Return the Celery application of a role.

    Parameters
    ----------
    role
        Name of its queue in `flow.QUEUES`.
    concurrency
        Children; one per GPU.
    bodies
        Step name -> ``module:function``; default: those of `flow.STEPS` for this queue, with their gates.
    """
    app = build_app(settings or load_settings(), name=role)
    app.conf.update(
        {
            "include": ["casebook.celery_role"],
            "worker_concurrency": concurrency,
            _BODIES_KEY: dict(bodies or {step.name: step.body for step in STEPS if step.queue == role}),
            _GATES_KEY: {step.name: step.gate for step in STEPS if step.queue == role and step.gate and not bodies},
        }
    )
    return app


def work(app: Celery) -> None:
    """Run the worker of a role until it is told to stop; does not return."""
    begin_process()
    configure_logs(app.main)
    queue_on_broker = queue_name(load_settings(), app.main)
    app.worker_main(["--quiet", "worker", "-Q", queue_on_broker, "-n", f"{app.main}-{os.getpid()}@%h"])


@shared_task(name=LOOK_TASK)
def look(queue_name: str) -> None:
    """Do every due job of a queue."""
    child = _here.child
    if child is None:
        return
    try:
        child.runner.drain(queue_name)
        child.progressed()
    except DBAPIError as error:
        # The sweeper wakes us again; leases that could not be given back expire.
        _log.error("look_failed", queue=queue_name, exc_info=error)


class Child:
    """What a child process holds: its runner and the job in hand."""

    def __init__(
        self,
        wiring: Wiring,
        bodies: Mapping[str, Body],
        gates: Mapping[str, Gate] | None = None,
        *,
        heartbeat: Heartbeat | None = None,
        watchdog: Watchdog | None = None,
        leave: Callable[[int], Any] = os._exit,
    ) -> None:
        """Take the wiring of this process, the bodies and gates of its queue, and who watches it.

        Parameters
        ----------
        heartbeat
            Told how it gets on.
        watchdog
            Ends the process with a job that does not end.
        leave
            Ends the process.
        """
        self._wiring = wiring
        self._heartbeat = heartbeat
        self._watchdog = watchdog or Watchdog(wiring.settings.queue.hard_limit_s)
        self._leave = leave
        self._job: Job | None = None
        self._idle = threading.Event()
        self._idle.set()
        self.runner = Runner(wiring, bodies, heartbeat=self._hold, gates=gates, broke=self._end_with_the_step)

    def progressed(self, job_id: int | None = None) -> None:
        """Say that the process gets on: with this job, or, without one, that nothing is due."""
        if self._heartbeat is not None:
            self._heartbeat.progressed(job_id)

    @contextmanager
    def _hold(self, wiring: Wiring, job: Job) -> Iterator[None]:
        self._job = job
        self._idle.clear()
        self.progressed(job.id)
        try:
            # The watchdog around it all: also the end of the lease's thread may have to wait for the database.
            with (
                self._watchdog.watch(job=job.id, step=job.step, study_instance_uid=job.study_instance_uid) as watched,
                keep_lease(wiring, job, watched.lose),
            ):
                yield
        finally:
            self._job = None
            self._idle.set()
            self.progressed()

    def _end_with_the_step(self, job: Job) -> None:
        if job.step not in _ENDS_ITS_PROCESS:
            return
        code = ExitCode.STEP_BROKE
        _log.error("process_ended_itself", reason=code.name.lower(), exit_code=int(code), step=job.step, job=job.id)
        self._leave(code)

    def stop(self, *, give_back_after_s: float = GIVE_BACK_AFTER_S, leave: Callable[[int], Any] = os._exit) -> None:
        """Finish the job in hand, or give it back when that takes too long, and take no other."""
        self.runner.stop()
        timer = threading.Timer(give_back_after_s, self._give_back, (leave,))
        timer.daemon = True
        timer.start()

    def end(self, *, give_back_after_s: float = GIVE_BACK_AFTER_S, leave: Callable[[int], Any] = os._exit) -> None:
        """Do as `stop` does, and leave."""
        self.runner.stop()
        if not self._idle.wait(give_back_after_s):
            self._give_back(leave)
        leave(0)

    def withdraw(self) -> None:
        """Say that this process ends as it was told to."""
        if self._heartbeat is not None:
            self._heartbeat.stop()

    def _give_back(self, leave: Callable[[int], Any]) -> None:
        job = self._job
        if job is None:
            return
        try:
            with self._wiring.write() as connection:
                queue.release(connection, job, now=self._wiring.clock.now(connection))
            _log.warning("job_given_back", job=job.id, step=job.step, study_instance_uid=job.study_instance_uid)
        except (LostLease, DBAPIError) as error:
            _log.warning("job_not_given_back", job=job.id, exc_info=error)
        leave(0)


@dataclass(slots=True)
class _Here:
    """The one child of this process; Celery's tasks and signals are module functions and have no other place."""

    child: Child | None = None


_here = _Here()


@signals.setup_logging.connect
def _set_up_logging(**_: object) -> None:
    # A receiver of this signal keeps Celery from setting up loggers of its own.
    configure_logs("worker")


@signals.worker_process_init.connect
def _start_child(**_: object) -> None:
    # Also where Celery's own command started the role.
    begin_process()
    role = current_app.main
    configure_logs(role)
    # Blocked before any thread exists and taken by a thread of ours: a handler would interrupt the idle child's
    # wait for work, which billiard takes for a failure, and the pool would start a new child in mid-shutdown.
    signal.pthread_sigmask(signal.SIG_BLOCK, {_STOP_SIGNAL})
    try:
        _here.child = _build_child(current_app, role)
    except Exception as error:  # noqa: BLE001 - the edge of the process: Celery would swallow it and serve without us
        _log.error("role_not_started", reason=str(error) if isinstance(error, WetreadError) else "", exc_info=error)
        # The whole role ends, so that whoever started it sees it and starts it again after a pause.
        os.kill(os.getppid(), signal.SIGTERM)
        os._exit(1)
    parent = current_process()._parent_pid  # noqa: SLF001 - os.getppid() may already name another one
    start_vital(partial(_wait_for_the_end, _here.child, parent), name="stop")


@signals.worker_process_shutdown.connect
def _withdraw_child(**_: object) -> None:
    if _here.child is not None:
        _here.child.withdraw()


def _build_child(app: Celery, role: str) -> Child:
    settings = load_settings()
    remove_damaged(settings)
    wiring = wire(wake=waker(app, settings))
    named: Mapping[str, str] = app.conf[_BODIES_KEY]
    bodies: dict[str, Body] = {}
    facts: dict[str, str] = {}
    for step, place in named.items():
        module, bodies[step] = _function_at(place)
        warm: Warm | None = getattr(module, "warm", None)
        if warm is not None:
            warm(settings, wiring.pipelines)
            facts["models"] = ", ".join(sorted({pipeline.model for pipeline in wiring.pipelines}))
    gates: dict[str, Gate] = {step: _function_at(place)[1] for step, place in app.conf[_GATES_KEY].items()}
    heartbeat = Heartbeat(wiring, role, queue=role, facts=facts)
    watchdog = Watchdog(settings.queue.hard_limit_s, timer=kernel_timer)
    watchdog.start()
    heartbeat.start()
    _log.info("role_started", queue=role, pid=os.getpid())
    # Work may have waited for this process; the next wake-up could be a sweep away.
    wiring.wake(role)
    return Child(wiring, bodies, gates, heartbeat=heartbeat, watchdog=watchdog)


def _function_at(place: str) -> tuple[ModuleType, Any]:
    module_name, _, function = place.partition(":")
    module = importlib.import_module(module_name)
    return module, getattr(module, function)


def _wait_for_the_end(child: Child, parent: int) -> None:
    while not _is_told_to_stop():
        if os.getppid() != parent:
            # Our successor needs the GPU and the queue: an idle child would notice by itself, a busy one goes on.
            _log.warning("parent_lost")
            child.end()
    child.stop()


def _is_told_to_stop() -> bool:
    # CPython 3.11 answers with a signal number of chance, and not with None, when the process was stopped and
    # continued (SIGSTOP, a paused container) beyond the time-out.
    told = signal.sigtimedwait({_STOP_SIGNAL}, _LOOK_AT_FAMILY_S)
    return told is not None and told.si_signo == _STOP_SIGNAL


@dataclass(slots=True)
class _Parent:
    """The worker of this process, as far as it is a parent of children."""

    pool: Any = None
    stopping: threading.Event = field(default_factory=threading.Event)


_parent = _Parent()


@signals.worker_ready.connect
def _remember_pool(sender: Any, **_: object) -> None:
    _parent.pool = sender.pool
    start_vital(_end_with_a_lost_child, name="lost-child")


def _end_with_a_lost_child() -> None:
    """End the whole role when a child dies, or a thread that gives it work; whoever started it starts it again.

    On a broker without an event loop (``filesystem://``) idle children wait for work under one lock. A child that is
    killed there takes the lock with it, and neither its siblings nor its successor ever get a task.
    """
    first = set(_parent.pool.info["processes"])
    threads = _threads_of(_parent.pool)
    while not _parent.stopping.wait(_LOOK_AT_FAMILY_S):
        lost = set(_parent.pool.info["processes"]) != first
        ended = [one.name for one in threads if not one.is_alive()]
        if (lost or ended) and not _parent.stopping.is_set():
            _log.error("child_lost" if lost else "pool_thread_ended", state=", ".join(ended))
            os._exit(1)


def _threads_of(pool: Any) -> list[threading.Thread]:
    """Return the threads of billiard without which no child gets work or is noticed; none on an event loop."""
    found = (getattr(pool._pool, name, None) for name in _POOL_THREADS)  # noqa: SLF001 - billiard has no question for it
    return [one for one in found if isinstance(one, threading.Thread) and one.ident is not None]


@signals.worker_shutting_down.connect
def _stop_children(**_: object) -> None:
    _parent.stopping.set()
    # Without this a child would go on until its queue is empty.
    if _parent.pool is None:
        return
    for pid in _parent.pool.info["processes"]:
        # A child that still starts has not blocked the signal and would die of it; it holds no job either.
        if _blocks_the_stop_signal(pid):
            try:
                os.kill(pid, _STOP_SIGNAL)
            except ProcessLookupError:
                continue


def _blocks_the_stop_signal(pid: int) -> bool:
    # Read from the kernel and not from the database, which may be what we end for.
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return False
    blocked = next((line.split()[1] for line in lines if line.startswith("SigBlk:")), "0")
    return bool(int(blocked, 16) >> (_STOP_SIGNAL - 1) & 1)

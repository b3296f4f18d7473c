"""Virtual time, processes that may die at any commit, and a database that may be away.

A process is a generator that yields how many seconds it waits, or `None` to wait until it is poked. Between
two of its steps others run, so a claim, its body and its commit really interleave with those of others.
"""

import heapq
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import Random

from sqlalchemy import Connection
from sqlalchemy.exc import OperationalError

from casebook import database
from casebook.case import Job
from casebook.testing import FrozenClock
from casebook.wiring import Wiring

Steps = Generator[float | None, None, None]


class BrokenPromise(BaseException):
    """A promise does not hold. No ordinary error, so that no role of the simulation can swallow it."""


class Crash(BaseException):
    """The process died here (kill -9): nothing after this line ran."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Odds:
    """How probable each fault is, while faults are on."""

    #: Of each commit: the process dies before it, or after it.
    crash_before_commit: float = 0.006
    crash_after_commit: float = 0.006
    #: Of each commit: it is kept, but its answer is lost.
    commit_answer_lost: float = 0.004
    #: Of each send: the process dies before the first byte, or after the last.
    crash_before_send: float = 0.02
    crash_after_send: float = 0.02
    #: Of each wake-up: it is lost, or sent twice.
    wake_up_lost: float = 0.3
    wake_up_repeated: float = 0.2
    #: Longest time a wake-up takes, in seconds.
    wake_up_s: float = 1.5
    #: Of each job: its worker never renews the lease.
    deaf: float = 0.05


class LeapingClock:
    """A clock that runs as the time passes, and is set."""

    def __init__(self, true: FrozenClock) -> None:
        """Take what tells the time that passes."""
        self._true = true
        self.leapt_s = 0.0

    def now(self, connection: Connection | None = None) -> float:
        """Return seconds since the epoch, UTC."""
        return self._true.now(connection) + self.leapt_s


class World:
    """Time, chance and everything that is scheduled."""

    def __init__(self, seed: int) -> None:
        """Start at the same morning for every seed."""
        self.random = Random(seed)  # noqa: S311 - a simulation is repeatable
        #: The time that passes.
        self.clock = FrozenClock()
        #: What the database takes for the time of day: it is set now and then.
        self.database_clock = LeapingClock(self.clock)
        self.odds = Odds()
        #: No more faults: from now on everything has to come to its end.
        self.is_calm = False
        self.steps = 0
        #: How often each fault happened, by its name.
        self.faults: Counter[str] = Counter()
        self._away_until = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0

    @property
    def now(self) -> float:
        """Seconds since the epoch, UTC, of the virtual clock."""
        return self.clock.at

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        """Schedule an action."""
        self._count += 1
        heapq.heappush(self._events, (self.now + seconds, self._count, action))

    def run(self, until: Callable[[], bool]) -> None:
        """Let time pass until the condition holds or nothing is scheduled any more."""
        while self._events and not until():
            at, _, action = heapq.heappop(self._events)
            self.clock.at = max(self.now, at)
            self.steps += 1
            action()

    def happens(self, fault: str, probability: float) -> bool:
        """Draw whether a fault happens, and count it; never once it is calm."""
        happens = self.random.random() < probability and not self.is_calm
        if happens:
            self.faults[fault] += 1
        return happens

    def clock_leaps(self, seconds: float) -> None:
        """Set the clock of the database on, or back."""
        self.faults["clock went forward" if seconds > 0 else "clock went back"] += 1
        self.database_clock.leapt_s += seconds

    def database_goes_away(self, seconds: float) -> None:
        """Let every transaction fail for some time."""
        self.faults["database away"] += 1
        self._away_until = self.now + seconds

    @property
    def is_database_away(self) -> bool:
        """Whether a transaction that begins now fails."""
        return self.now < self._away_until


def _away() -> OperationalError:
    return OperationalError("the database is away", None, Exception("simulated"))


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedWiring(Wiring):
    """A wiring whose transactions meet the faults of a world."""

    world: World

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """Open one writing transaction, before or after whose commit the process may die."""
        world = self.world
        if world.is_database_away:
            raise _away()
        with database.write(self.engine) as connection:
            yield connection
            if world.happens("crash before a commit", world.odds.crash_before_commit):
                raise Crash
        if world.happens("crash after a commit", world.odds.crash_after_commit):
            raise Crash
        if world.happens("answer to a commit lost", world.odds.commit_answer_lost):
            raise _away()

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Open one short reading transaction."""
        if self.world.is_database_away:
            raise _away()
        with database.read(self.engine) as connection:
            yield connection


@dataclass(slots=True, kw_only=True)
class Process:
    """One process of a role; what it held in memory is gone when it dies."""

    name: str
    world: World
    begin: Callable[["Process"], Steps]
    #: The job in hand, whose lease is renewed.
    job: Job | None = None
    deaths: int = 0
    _steps: Steps | None = field(default=None, init=False)
    _waits: bool = field(default=False, init=False)
    _poked: bool = field(default=False, init=False)
    _stopped_until: float = field(default=0.0, init=False)

    def start(self) -> None:
        """Begin from nothing."""
        self._steps = self.begin(self)
        self._waits = self._poked = False
        self._schedule(self._steps, 0.0)

    @property
    def is_alive(self) -> bool:
        """Whether it runs."""
        return self._steps is not None

    @property
    def is_idle(self) -> bool:
        """Whether it waits for a wake-up."""
        return self._waits

    @property
    def is_stopped(self) -> bool:
        """Whether it stands still (SIGSTOP, a virtual machine that is moved)."""
        return self.world.now < self._stopped_until

    def die(self) -> None:
        """Lose everything in memory and be started again by the supervisor."""
        self._steps = None
        self.job = None
        self.deaths += 1
        self.world.after(self.world.random.uniform(0.5, 4.0), self.start)

    def stand_still(self, seconds: float) -> None:
        """Do nothing for some time, heartbeat included, then go on as if nothing had been."""
        self.world.faults["process stood still"] += 1
        self._stopped_until = self.world.now + seconds

    def poke(self) -> None:
        """Wake it, or let it look once more after what it does now."""
        if self._steps is None:
            return
        self._poked = True
        if self._waits:
            self._waits = False
            self._schedule(self._steps, 0.0)

    def _schedule(self, steps: Steps, seconds: float) -> None:
        self.world.after(seconds, lambda: self._go_on(steps))

    def _go_on(self, steps: Steps) -> None:
        if steps is not self._steps:
            return  # It died since.
        if self.is_stopped:
            self._schedule(steps, self._stopped_until - self.world.now)
            return
        try:
            wait = next(steps)
        except Crash:
            self.die()
            return
        except StopIteration:
            self._steps = None
            return
        if wait is not None:
            self._schedule(steps, wait)
        elif self._poked:
            self._poked = False
            self._schedule(steps, 0.0)
        else:
            self._waits = True

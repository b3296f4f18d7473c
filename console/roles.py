"""How the roles are, on every machine: each is well, silent, or alive without getting on, with cause and command."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, func, select

from casebook import presence, tables
from casebook.case import JobState
from casebook.presence import SUPERVISOR, Presence

#: In the order in which a study meets them.
ROLES = ("listener", "sweeper", "io", "gpu")
#: Seconds for which work may wait while nobody gets on with it; a sweep, a wake-up and a claim take less than two.
STALLED_AFTER_S = 60.0
_job = tables.job.c


@dataclass(frozen=True, slots=True, kw_only=True)
class Roles:
    """Who runs, and what waits for them, at one moment."""

    now: float
    known: tuple[Presence, ...]
    #: Queue -> seconds for which its oldest due job has waited.
    waiting_s: dict[str, float]

    def of(self, role: str) -> list[Presence]:
        """Return the processes of a role that are alive."""
        return [one for one in self.known if one.role == role and not one.is_silent(self.now)]

    @property
    def silent(self) -> list[Presence]:
        """Processes that have ended without a word, or cannot reach the database."""
        return [one for one in self.known if one.is_silent(self.now)]

    def is_stalled(self, role: str) -> bool:
        """Whether a role is alive and work waits for it, and yet nobody of it gets on."""
        alive = self.of(role)
        if not alive or any(one.job_id is not None for one in alive):
            return False  # A job in hand ends at its hard limit, whatever becomes of it.
        idle_s = min(self.now - one.progressed_at for one in alive)
        return idle_s > STALLED_AFTER_S and (role == "sweeper" or self.waiting_s.get(role, 0.0) > STALLED_AFTER_S)


def roles_at(connection: Connection, *, now: float) -> Roles:
    """Read who runs and what waits for them."""
    waiting = (
        select(_job.queue, func.min(_job.run_after).label("since"))
        # A send may wait for its destination, and that is no fault of the role.
        .where(_job.state.in_((JobState.READY, JobState.RETRY)), _job.run_after <= now, _job.lock == "")
        .group_by(_job.queue)
    )
    rows = connection.execute(waiting)
    return Roles(now=now, known=presence.known(connection), waiting_s={row.queue: now - row.since for row in rows})


def attention(roles: Roles, *, is_embedded: bool) -> list[str]:
    """Return what is wrong with the roles: each with its likely cause and what to do."""
    if not roles.known:
        return ["nothing runs here: wetread up" if is_embedded else "nothing runs anywhere: wetread up"]
    found = [_silence(one, roles.now) for one in roles.silent]
    silent = {one.role for one in roles.silent}
    for role in ROLES:
        if not roles.of(role) and role not in silent:
            found.append(f"{role} does not work: look for role_ended in the log, or start it: wetread up --role {role}")
        elif roles.is_stalled(role):
            found.append(_stall(role, roles))
    return found


def in_words(role: str, roles: Roles, read_s: float | None) -> str:
    """Return how one role is, in a few words."""
    here = roles.of(role)
    if not here:
        return f"{role} silent" if any(one.role == role for one in roles.silent) else f"{role} -"
    if roles.is_stalled(role):
        return f"{role} no progress"
    if role == "listener":
        return f"listener ok (port {here[0].facts.get('port', '?')})"
    if role == "gpu":
        speed = [] if read_s is None else [f"{read_s:.2f} s/study"]
        said = ", ".join([*filter(None, [here[0].facts.get("models")]), *speed])
        return f"gpu ok ({said})" if said else "gpu ok"
    return f"{role} ok"


def supervisors(known: Sequence[Presence]) -> list[Presence]:
    """Return those that start the others."""
    return [one for one in known if one.role == SUPERVISOR]


def _silence(one: Presence, now: float) -> str:
    since = f"{one.role} on {one.host} is silent since {int(now - one.seen_at)} s (process {one.pid}): "
    if not presence.is_here(one):
        return since + "its machine, or its way to the database, may be down; look there and run wetread up again"
    if one.role == SUPERVISOR:
        return (
            since + f"it may be stopped, and starts nothing again; kill -CONT {one.pid}, or start it anew: wetread up"
        )
    return since + f"it may be stopped or hang; kill {one.pid}, and it is started again"


def _stall(role: str, roles: Roles) -> str:
    pids = ", ".join(f"{one.pid} on {one.host}" for one in roles.of(role))
    if role == "sweeper":
        idle_s = int(min(roles.now - one.progressed_at for one in roles.of(role)))
        what = f"sweeper is alive but has finished no sweep for {idle_s} s"
    else:
        what = f"{role} is alive but takes no work, and a job has waited for {int(roles.waiting_s[role])} s"
    return (
        f"{what}: it may have lost its way to the broker, or hang; kill its process ({pids}), and it is started again"
    )

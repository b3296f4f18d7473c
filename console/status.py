"""``wetread status``: is everything well, and if not, what needs a person."""

import dataclasses
import importlib.metadata
import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import click

from casebook.settings import Settings
from casebook.study import StudyState
from casebook.wiring import wire
from console import roles
from console.options import directories
from console.overview import Overview, overview
from console.roles import Roles
from console.screen import say


@click.command
@click.option("--json", "as_json", is_flag=True, help="The same facts for machines.")
@directories
def status(*, as_json: bool, config_directory: Path | None, data_directory: Path | None) -> None:
    """Show roles, rates and what waits; exit code 1 when something needs a person."""
    wiring = wire(config_directory, data_directory)
    settings = wiring.settings
    with wiring.read() as connection:
        now = wiring.clock.now(connection)
        facts = overview(connection, now=now)
        found = roles.roles_at(connection, now=now)
    attention = [*_attention(settings, facts, found), *_failing_attention(facts, now)]
    if as_json:
        say(json.dumps(_as_dict(settings, facts, found, attention, now)))
    else:
        say(_in_words(settings, facts, found, attention, now))
    sys.exit(1 if attention else 0)


def _attention(settings: Settings, facts: Overview, found: Roles) -> list[str]:
    needs = [f"{facts.counts[state]} {state}" for state in (StudyState.HELD, StudyState.DEAD) if state in facts.counts]
    needs += roles.attention(found, is_embedded=settings.database.url is None)
    needs += _of_stored_files(facts)
    if shutil.disk_usage(settings.data_directory).free < settings.listener.min_free_bytes:
        needs.append("the disk is full: images are refused")
    return needs


def _of_stored_files(facts: Overview) -> list[str]:
    """Say what the disk does not give out, or holds and nobody could use."""
    needs = []
    if facts.set_aside:
        needs.append(f"{_images(facts.set_aside)} set aside in the last day: look into inbox-refused")
    if facts.unread:
        needs.append(f"{_images(facts.unread)} cannot be read: look at the disk (object_not_read in the log)")
    if facts.uncompared:
        needs.append(
            f"{_images(facts.uncompared)} cannot be compared, because the first copy cannot be read: look at the disk "
            "(first_copy_not_read in the log)"
        )
    return needs


def _images(count: int) -> str:
    return f"{count} received {'image' if count == 1 else 'images'}"


#: Seconds a destination may fail before a person has to look: it may only start again.
_FAILING_FOR_A_MOMENT_S = 60.0


def _failing_attention(facts: Overview, now: float) -> list[str]:
    return [
        f"destination {one.name} takes nothing since {_duration(now - one.failing_since)}: "
        f"wetread test-destination {one.name}"
        for one in facts.failing
        if one.failing_since is not None and now - one.failing_since >= _FAILING_FOR_A_MOMENT_S
    ]


def _failing_lines(facts: Overview, now: float) -> list[str]:
    lines = []
    for one in facts.failing:
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(one.failing_since))
        last = f"{one.reason.replace('_', ' ')}: {one.detail.rstrip('.')}" if one.detail else one.reason
        next_try = max(0, round(one.next_try - now))
        lines.append(
            f"failing     {one.name} since {since}   {one.backlog} waiting   next try in {next_try} s   {last}"
        )
    return lines


def _in_words(settings: Settings, facts: Overview, found: Roles, attention: list[str], now: float) -> str:
    version = importlib.metadata.version("wetread")
    up = roles.supervisors(found.known)
    since = f"up {_duration(now - min(one.started_at for one in up))}" if up else "down"
    each = "   ".join(roles.in_words(role, found, facts.read_s) for role in roles.ROLES)
    lines = [
        f"wetread {version}   {since}   {each}   {_disk(settings, facts)}",
        (
            f"last hour   received {facts.received_studies} studies ({facts.received_images:,} images)   "
            f"drafted {facts.drafted}   delivered {facts.delivered}   closed {facts.closed}"
        ),
        f"now         {_now(facts)}",
    ]
    if facts.oldest is not None:
        uid = facts.oldest.study_instance_uid
        waited = _duration(now - facts.oldest.changed_at)
        reason = _reasons(facts)
        lines.append(f"oldest      {uid} {facts.oldest.state} {waited}  {reason}  (wetread why {uid})")
    lines += _failing_lines(facts, now)
    if attention:
        lines.append(f"attention   {'; '.join(attention)}")
    return "\n".join(lines)


def _reasons(facts: Overview) -> str:
    if facts.oldest is None:
        return ""
    held = [(f"{one.destination}: {one.reason}" if one.destination else one.reason) for one in facts.oldest_holds]
    return "; ".join(held or [facts.oldest.reason]).replace("_", " ")


def _now(facts: Overview) -> str:
    def count(*states: StudyState) -> int:
        return sum(facts.counts.get(state, 0) for state in states)

    return (
        f"receiving {count(StudyState.RECEIVED)}   reading {count(StudyState.COMPLETE)}   "
        f"delivering {count(StudyState.READ, StudyState.READY)}   held {count(StudyState.HELD)}   "
        f"dead {count(StudyState.DEAD)}   refused {count(StudyState.REFUSED)}   "
        f"unmatched {count(StudyState.UNMATCHED)}"
    )


def _disk(settings: Settings, facts: Overview) -> str:
    disk = shutil.disk_usage(settings.data_directory)
    used = f"disk {100 * disk.used / disk.total:.0f} %"
    left = disk.free - settings.listener.min_free_bytes
    if facts.received_bytes == 0 or left <= 0:
        return used
    return f"{used} (full in {_duration(3600 * left / facts.received_bytes)} at this rate)"


def _duration(seconds: float) -> str:
    whole = max(0, int(seconds))
    clock = f"{whole % 86400 // 3600:02d}:{whole % 3600 // 60:02d}:{whole % 60:02d}"
    return f"{whole // 86400} d {clock}" if whole >= 86400 else clock


def _as_dict(settings: Settings, facts: Overview, found: Roles, attention: list[str], now: float) -> dict[str, Any]:
    disk = shutil.disk_usage(settings.data_directory)
    return {
        "version": importlib.metadata.version("wetread"),
        "at": now,
        "roles": [dataclasses.asdict(one) for one in found.known],
        "overview": dataclasses.asdict(facts),
        "disk": {"total_bytes": disk.total, "free_bytes": disk.free},
        "attention": attention,
    }

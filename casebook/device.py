"""Which machine this installation is: its one DeviceUID, every former one, and what a site has to say of it.

The DeviceUID is generated at the first start and kept in the database, so that all nodes of one installation share
it and no two installations do. Former ones stay known: results that carry them are ours as well.
"""

import ipaddress
import uuid
from collections.abc import Iterator

from sqlalchemy import Connection, select
from sqlalchemy.dialects import postgresql, sqlite

from casebook import tables
from casebook.errors import SettingsError
from casebook.settings import SHIPPED_DEVICE_UID, Settings

#: The one row of the table `installation`.
_THE_ONE = 1
_INSERT = {dialect.dialect.name: dialect.insert for dialect in (sqlite, postgresql)}


# ---- the DeviceUID -----------------------------------------------------------------------------------------


def generate_uid() -> str:
    """Return a new UID under 2.25 (PS3.5 B.2)."""
    return f"2.25.{uuid.uuid4().int}"


def settle(connection: Connection, *, stated: str, now: float) -> str:
    """Record the DeviceUID of this installation and return it; safe when several nodes start at once.

    Parameters
    ----------
    stated
        `device.device_uid` of the settings; empty where the site leaves it to us. The one before stays known.
    """
    insert = _INSERT[connection.dialect.name]
    row = insert(tables.installation).values(id=_THE_ONE, device_uid=stated or generate_uid())
    if stated:
        row = row.on_conflict_do_update(index_elements=["id"], set_={"device_uid": stated})
    else:
        row = row.on_conflict_do_nothing(index_elements=["id"])
    connection.execute(row)
    # Of several nodes that start at once, the first one has named the installation: read, never remembered.
    device_uid = current_uid(connection)
    remember = insert(tables.known_device).values(device_uid=device_uid, known_since=now)
    connection.execute(remember.on_conflict_do_nothing(index_elements=["device_uid"]))
    return device_uid


def current_uid(connection: Connection) -> str:
    """Return the DeviceUID of this installation; empty before the first start."""
    found = connection.execute(select(tables.installation.c.device_uid)).scalar_one_or_none()
    return str(found or "")


def known_uids(connection: Connection) -> frozenset[str]:
    """Return every DeviceUID under which this installation made results, the one that was shipped included."""
    rows = connection.execute(select(tables.known_device.c.device_uid))
    return frozenset({SHIPPED_DEVICE_UID, *(row.device_uid for row in rows)})


def is_settled(connection: Connection, *, stated: str) -> bool:
    """Say whether the DeviceUID is recorded as the settings want it, so that nothing has to be written."""
    device_uid = current_uid(connection)
    return bool(device_uid) and stated in ("", device_uid)


# ---- beyond loopback ---------------------------------------------------------------------------------------


def require_named(settings: Settings) -> None:
    """Refuse to serve a hospital under the name of the demonstration.

    Raises
    ------
    SettingsError
        Names the file, each key that is missing and what to write.
    """
    missing = tuple(unnamed_keys(settings))
    reach = next(beyond_loopback(settings), "")
    if missing and reach:
        raise SettingsError(
            f"{settings.config_directory / 'node.yaml'}: {'; '.join(missing)}. "
            f"Results would leave this machine ({reach}), so they have to say whose machine wrote them and when."
        )


def unnamed_keys(settings: Settings) -> Iterator[str]:
    """Name each key of `device` that a site has to state itself, with what to write."""
    stated = settings.device.model_fields_set
    for key, what in _HAVE_TO_BE_STATED.items():
        if key not in stated or _is_of_the_demonstration(settings, key):
            yield f"device.{key}: {what}"


_HAVE_TO_BE_STATED = {
    "institution_name": "write the name of the hospital as its reports carry it",
    "device_serial_number": 'write a serial number or inventory number of this installation, in quotes ("WR-0001")',
    "timezone": "write the IANA time zone of the hospital (Europe/Berlin, Asia/Shanghai, America/New_York)",
}


def _is_of_the_demonstration(settings: Settings, key: str) -> bool:
    # A serial number 1 or a hospital in UTC may be the truth where somebody wrote it down; this name never is.
    return key == "institution_name" and settings.device.institution_name.strip() == _DEMONSTRATION


_DEMONSTRATION = "Wetread demonstration"


def beyond_loopback(settings: Settings) -> Iterator[str]:
    """Name each setting through which this node is reached, or reaches out, beyond its own machine."""
    if not is_loopback(settings.listener.host):
        yield "listener.host"
    if not all(map(_is_loopback_network, settings.listener.allowed_networks)):
        yield "listener.allowed_networks"
    if settings.stow is not None and not is_loopback(settings.stow.host):
        yield "stow.host"
    if settings.archive is not None and not is_loopback(settings.archive.host):
        yield "archive.host"
    for destination in settings.destinations:
        if not is_loopback(destination.host):
            yield f"host of the destination {destination.name}"


def is_loopback(host: str) -> bool:
    """Say whether a host is this machine, whatever the network says; a name but localhost may be any machine."""
    name = host.strip().rstrip(".").lower()
    if name == "localhost":
        return True
    try:
        address = ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


def _is_loopback_network(network: str) -> bool:
    try:
        found = ipaddress.ip_network(network, strict=False)
    except ValueError:
        return False
    return found.is_loopback

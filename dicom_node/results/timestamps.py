"""Dates and times as DICOM and HL7 want them: our one timestamp, and received dates that may be none."""

import datetime as dt
import re
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from casebook.errors import SettingsError

_OFFSET = re.compile(r"([+-])(\d{2})([0-5]\d)")


def moment(created_at: float, timezone: str) -> dt.datetime:
    """Return a POSIX time in an IANA time zone, cut to whole seconds.

    Raises
    ------
    SettingsError
        When there is no such time zone.
    """
    return dt.datetime.fromtimestamp(int(created_at), zone(timezone))


def zone(name: str) -> dt.tzinfo:
    """Return the time zone of an IANA name.

    Raises
    ------
    SettingsError
        When there is none.
    """
    if name == "UTC":
        return dt.UTC
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise SettingsError("device.timezone: no such time zone") from None


def fixed_offset(timezone_offset_from_utc: str) -> dt.tzinfo | None:
    """Return the time zone of TimezoneOffsetFromUTC (PS3.3 C.12.1.1.8), None where it is absent or malformed."""
    found = _OFFSET.fullmatch(timezone_offset_from_utc)
    if found is None or int(found[2]) > 14:
        return None
    offset = dt.timedelta(hours=int(found[2]), minutes=int(found[3]))
    return dt.timezone(-offset if found[1] == "-" else offset)


def date_or_empty(value: str) -> str:
    """Return a received DA value (PS3.5 6.2, YYYYMMDD) as it is, empty where it is no day of the calendar."""
    try:
        dt.datetime.strptime(value, "%Y%m%d").replace(tzinfo=dt.UTC)
    except ValueError:
        return ""
    # strptime also takes fewer digits.
    return value if len(value) == len("YYYYMMDD") else ""

"""Which objects are results of Wetread: they come back from archives and must start nothing, nor count as reports."""

from collections.abc import Collection

from dicom_node.objects.sop_classes import is_picture

#: Manufacturer of every object that Wetread makes.
MANUFACTURER = "Wetread"


def is_own_result(*, device_uid: str, manufacturer: str, sop_class_uid: str, devices: Collection[str]) -> bool:
    """Say whether an object was made by this installation, now or earlier, or by another Wetread.

    Two installations beside one archive get each other's drafts forwarded; each draft would be a new object of the
    study to the other, which would draft anew, without an end.

    Parameters
    ----------
    devices
        Every DeviceUID this installation ever had.
    """
    return is_of_device(device_uid, devices) or is_of_another_wetread(manufacturer, sop_class_uid)


def is_of_device(device_uid: str, devices: Collection[str]) -> bool:
    """Say whether the DeviceUID (PS3.3 C.7.5.1) of an object is or was that of this installation."""
    return bool(device_uid) and device_uid in devices


def is_of_another_wetread(manufacturer: str, sop_class_uid: str) -> bool:
    """Say whether Wetread made an object that is no picture: the films of the demonstration are pictures."""
    return manufacturer.strip() == MANUFACTURER and not is_picture(sop_class_uid)

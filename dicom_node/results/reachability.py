"""Whether a destination could take our results, and if not, why not in words: nothing of a study is sent."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom.association import Association
from pynetdicom.presentation import build_context

from casebook.settings import DicomDestination, Hl7Destination
from dicom_node.association_scu import accepted, associate, why_rejected
from dicom_node.results.rejection_note import KEY_OBJECT_SELECTION
from dicom_node.results.sr_document import ENHANCED_SR

#: PS3.4 A.4.
VERIFICATION = "1.2.840.10008.1.1"
#: A receiver that does not want us closes the connection at once; one that does waits for a message.
_CLOSES_AT_ONCE_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Reached:
    """What came of a try."""

    is_good: bool
    #: One sentence a line.
    said: tuple[str, ...]


class _NotReachedError(Exception):
    """Why not, as a sentence."""


def reach(destination: DicomDestination | Hl7Destination) -> Reached:
    """Connect to a destination as a send does, and say what it answers."""
    try:
        if isinstance(destination, DicomDestination):
            return _reach_archive(destination)
        return _reach_receiver(destination)
    except _NotReachedError as error:
        return Reached(is_good=False, said=(str(error),))


def _reach_receiver(destination: Hl7Destination) -> Reached:
    with _connection(destination) as connection:
        connection.settimeout(min(_CLOSES_AT_ONCE_S, destination.timeout_s))
        try:
            closed = not connection.recv(1)
        except TimeoutError:
            closed = False
        except OSError:
            closed = True
    where = _where(destination)
    if closed:
        return Reached(
            is_good=False,
            said=(f"{where} takes the connection and closes it at once: it may not know this machine's address.",),
        )
    return Reached(
        is_good=True,
        said=(f"{where} takes the connection and waits for a message. None was sent: its answer is not known.",),
    )


def _reach_archive(destination: DicomDestination) -> Reached:
    with _connection(destination):
        pass
    wanted = [ENHANCED_SR, *([KEY_OBJECT_SELECTION] if destination.rejection_notes else [])]
    association = _associate(destination, [VERIFICATION, *wanted])
    try:
        contexts = accepted(association)
        echo = _echo(association) if VERIFICATION in contexts else "C-ECHO: not accepted, so not asked."
    finally:
        association.release()
    said = [f"{_where(destination)} accepts the association of {destination.calling_ae_title}.", echo]
    for uid in wanted:
        syntaxes = ", ".join(UID(one).name for one in contexts.get(uid, ()))
        said.append(f"{UID(uid).name}: {f'accepted, in {syntaxes}' if syntaxes else 'not accepted'}.")
    missing = [uid for uid in wanted if uid not in contexts]
    if ENHANCED_SR in missing:
        said.append("It takes no draft of ours: enable Enhanced SR Storage there for our AE title.")
    elif missing:
        said.append("It takes no rejection note: enable Key Object Selection there, or take rejection_notes out here.")
    return Reached(is_good=not missing, said=tuple(said))


def _echo(association: Association) -> str:
    answer = association.send_c_echo()
    if "Status" not in answer:
        return "C-ECHO: no answer."
    status = int(answer.Status)
    return "C-ECHO: answered." if status == 0x0000 else f"C-ECHO: answered with status 0x{status:04X}."


def _associate(destination: DicomDestination, sop_class_uids: list[str]) -> Association:
    # As a send asks: each transfer syntax in a context of its own, so that the answer tells both.
    syntaxes = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)
    association = associate(
        destination.host,
        destination.port,
        called=destination.ae_title,
        calling=destination.calling_ae_title,
        timeout_s=destination.timeout_s,
        contexts=[build_context(uid, one) for uid in sop_class_uids for one in syntaxes],
        name=_where(destination),
    )
    if association.is_established:
        return association
    answer = association.acceptor.primitive
    if association.is_rejected and answer is not None:
        raise _NotReachedError(f"{_where(destination)} rejects the association: {why_rejected(answer)}.")
    if answer is not None and not association.accepted_contexts:
        raise _NotReachedError(
            f"{_where(destination)} accepts none of our presentation contexts, not even Enhanced SR: it takes no draft."
        )
    raise _NotReachedError(
        f"{_where(destination)} takes the connection and gives no answer to the association request within "
        f"{destination.timeout_s:g} s: it may be no DICOM port, or the archive hangs."
    )


@contextmanager
def _connection(destination: DicomDestination | Hl7Destination) -> Iterator[socket.socket]:
    where = _where(destination)
    try:
        connection = socket.create_connection((destination.host, destination.port), destination.timeout_s)
    except (socket.gaierror, UnicodeError):
        raise _NotReachedError(
            f"The name server does not know {destination.host}: mend the name or the host."
        ) from None
    except ConnectionRefusedError:
        raise _NotReachedError(f"{where} refuses the connection: nothing listens on this port.") from None
    except TimeoutError:
        raise _NotReachedError(
            f"{where} gives no answer within {destination.timeout_s:g} s: a firewall drops it, or the machine is off."
        ) from None
    except OSError:
        raise _NotReachedError(f"{where} cannot be reached: there is no way to this address from here.") from None
    with connection:
        yield connection


def _where(destination: DicomDestination | Hl7Destination) -> str:
    title = f"{destination.ae_title}@" if isinstance(destination, DicomDestination) else ""
    return f"{title}{destination.host}:{destination.port}"

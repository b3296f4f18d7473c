"""What our upper layer relies on of pynetdicom beyond its documentation: with another version, this fails first."""

import os
from typing import Any

import pytest
from pynetdicom import AE, fsm
from pynetdicom._globals import MODE_ACCEPTOR
from pynetdicom.association import Association
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dul import DULServiceProvider
from pynetdicom.fsm import StateMachine
from pynetdicom.timer import Timer
from pynetdicom.transport import AssociationSocket

#: Class, then the names of it that `upper_layer` and `association_scu` call, override or set.
CONTRACT: tuple[tuple[type[Any], tuple[str, ...]], ...] = (
    (
        DULServiceProvider,
        (
            "run_reactor", "kill_dul", "send_pdu", "_decode_pdu", "_process_recv_primitive", "peek_next_pdu",
            "receive_pdu", "stop_dul", "_send",
        ),
    ),
    (
        Association,
        ("run_reactor", "_run_reactor", "_serve_request", "kill", "abort", "_abort_blocking", "acse_timeout",
         "network_timeout"),
    ),
    (DIMSEServiceProvider, ("receive_primitive", "get_msg")),
    (StateMachine, ("do_action",)),
    (Timer, ("expired", "remaining", "start")),
    (AssociationSocket, ("send", "ready", "_shutdown_socket")),
)  # fmt: skip
#: Names that only an instance has.
ASSOCIATION_ATTRIBUTES = (
    "dul", "acse", "dimse", "_dul_ready", "_accepted_cx", "_sent_abort", "_kill", "is_aborted", "is_established",
    "is_released", "_is_paused",
)  # fmt: skip
DUL_ATTRIBUTES = (
    "event_queue", "to_provider_queue", "to_user_queue", "_recv_pdu", "_kill_thread", "_idle_timer", "artim_timer",
    "state_machine", "socket",
)  # fmt: skip


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, names in CONTRACT for name in names], ids=str)
def test_the_installed_pynetdicom_has_every_name_that_we_rely_on(kind: type[Any], name: str) -> None:
    assert hasattr(kind, name)


def test_the_installed_pynetdicom_has_the_attributes_and_tables_that_we_rely_on() -> None:
    association = Association(AE(), MODE_ACCEPTOR)

    assert [name for name in ASSOCIATION_ATTRIBUTES if not hasattr(association, name)] == []
    assert [name for name in DUL_ATTRIBUTES if not hasattr(association.dul, name)] == []
    assert [name for name in ("TRANSITION_TABLE", "AA_8") if not hasattr(fsm, name)] == []
    assert hasattr(os, "eventfd")

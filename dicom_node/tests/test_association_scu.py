"""An answer reaches the caller who waits for it."""

from pynetdicom import AE
from pynetdicom._globals import MODE_REQUESTOR
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_ECHO

from dicom_node.association_scu import keep_answers


def test_the_thread_of_the_association_takes_no_answer_from_the_caller() -> None:
    association = keep_answers(Association(AE(), MODE_REQUESTOR))
    answer = C_ECHO()
    association.dimse.msg_queue.put((1, answer))

    assert association.dimse.get_msg(block=False) == (None, None)
    assert association.dimse.get_msg(block=True) == (1, answer)

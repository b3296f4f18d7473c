"""The two ends a result goes to: an archive that keeps the first content of a UID, and a RIS; both may fail."""

from dataclasses import dataclass, field

from casebook.case import Case, FrozenOutput
from casebook.errors import PeerUnavailable, RejectedByPeer
from casebook.outcomes import Delivered, Outcome
from casebook.simulation.world import BrokenPromise, Crash, Steps, World

#: Seconds for which a sender waits for an answer.
_TIMEOUT_S = 30.0


@dataclass(slots=True, kw_only=True)
class End:
    """A destination."""

    name: str
    world: World
    #: SOP Instance UID or MSH-10 -> the bytes that came under it; others never may.
    contents: dict[str, bytes] = field(default_factory=dict)
    #: (study, generation) -> the id of its one draft.
    drafts: dict[tuple[str, int], str] = field(default_factory=dict)
    #: Objects in the order in which each arrived first.
    arrived: list[str] = field(default_factory=list)
    #: Study -> the newest generation that arrived.
    _newest: dict[str, int] = field(default_factory=dict)
    _down_until: float = 0.0
    _silent_until: float = 0.0

    def goes_down(self, seconds: float) -> None:
        """Refuse every connection for some time."""
        self.world.faults[f"{self.name} down"] += 1
        self._down_until = self.world.now + seconds

    def goes_silent(self, seconds: float) -> None:
        """Take every connection for some time, and answer nothing."""
        self.world.faults[f"{self.name} silent"] += 1
        self._silent_until = self.world.now + seconds

    def take(self, case: Case, *, is_rejected: bool, answers: list[Outcome]) -> Steps:
        """Receive one output as a peer on the wire does; the answer is put into `answers`.

        Raises
        ------
        PeerUnavailable
            When it is down, or its answer is lost although it kept the bytes.
        RejectedByPeer
            When it does not want this study.
        """
        world, output = self.world, case.output
        if output is None:
            raise AssertionError("a send without its frozen output")
        if world.happens("crash before a send", world.odds.crash_before_send):
            raise Crash
        yield world.random.uniform(0.01, 0.2)
        if world.now < self._down_until:
            raise PeerUnavailable
        if world.now < self._silent_until:
            yield _TIMEOUT_S
            raise PeerUnavailable
        if is_rejected:
            world.faults["permanent refusal"] += 1
            raise RejectedByPeer
        if world.happens("slow answer", 0.1):
            yield world.random.uniform(1.0, 60.0)  # slow, maybe past the lease
        self._keep(case, output)
        if world.happens("crash after a send", world.odds.crash_after_send):
            raise Crash
        if world.happens("answer to a send lost", 0.08):
            raise PeerUnavailable  # ambiguous: the bytes arrived, the answer did not
        yield world.random.uniform(0.01, 0.2)
        answers.append(Delivered(acknowledgement="0x0000" if self.name == "pacs" else "AA"))

    def _keep(self, case: Case, output: FrozenOutput) -> None:
        study_instance_uid, generation = case.job.study_instance_uid, case.job.generation
        if generation < self._newest.get(study_instance_uid, 0):
            raise BrokenPromise(f"{self.name}: generation {generation} of {study_instance_uid} arrived after a newer")
        self._newest[study_instance_uid] = generation
        if output.object_uid not in self.contents:
            self.arrived.append(output.object_uid)
        if self.contents.setdefault(output.object_uid, output.content) != output.content:
            raise BrokenPromise(f"{self.name}: different bytes under {output.object_uid}")
        first = self.drafts.setdefault((study_instance_uid, generation), output.object_uid)
        if first != output.object_uid:
            raise BrokenPromise(f"{self.name}: two drafts for {study_instance_uid} generation {generation}")

"""The terms on which a study goes on: what is configured, and the moment of the transaction."""

from dataclasses import dataclass

from casebook.pipelines import Pipeline
from casebook.settings import QueueSettings
from casebook.study import Demographic


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What every decision of the flow is made by; made anew for each transaction."""

    pipelines: tuple[Pipeline, ...]
    limits: QueueSettings
    #: Of name and sex, in what the images of a study may not differ.
    strict: tuple[Demographic, ...] = ()
    #: Seconds since the epoch, by the clock of the queue of record.
    now: float

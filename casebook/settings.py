"""Every setting of Wetread in one typed, frozen tree: `config/node.yaml`, environment over it.

An unknown key is refused by name. The environment wins: ``WETREAD_DATABASE__URL`` sets ``database.url``.
Secrets are never printed.
"""

import difflib
import os
import re
import unicodedata
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import yaml
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict
from pydantic_settings import SettingsError as UnreadableSource

from casebook.character_sets import is_character_set
from casebook.errors import SettingsError
from casebook.study import Demographic

#: The configuration that ships with the program.
SHIPPED_CONFIG_DIRECTORY = Path(__file__).resolve().parent.parent / "config"
#: DeviceUID of every installation before each had one of its own; nobody's name any more, but known for ever.
SHIPPED_DEVICE_UID = "2.25.302837465019283746501928374650192837"
_ENVIRONMENT_PREFIX = "WETREAD_"
#: Names the configuration folder for processes that are not started with an argument.
CONFIG_DIRECTORY_VARIABLE = "WETREAD_CONFIG_DIRECTORY"

AeTitle = Annotated[
    str,
    Field(min_length=1, max_length=16, pattern=r"^[\x21-\x5b\x5d-\x7e]([\x20-\x5b\x5d-\x7e]*[\x21-\x5b\x5d-\x7e])?$"),
]
Port = Annotated[int, Field(ge=0, le=65535)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, use_attribute_docstrings=True)


class DatabaseSettings(_Frozen):
    """The database: the queue of record and the index of what was received."""

    url: SecretStr | None = None
    """SQLAlchemy URL, ``sqlite:///...`` or ``postgresql+psycopg://...``; default: SQLite in the data directory."""


class BrokerSettings(_Frozen):
    """The wake-up bus; losing it costs at most one sweep."""

    url: SecretStr = SecretStr("filesystem://")
    """Celery broker URL: ``filesystem://`` (folders in the data directory), ``amqp://...`` or ``redis://...``."""
    poll_interval_s: float = Field(default=0.1, gt=0)
    """Seconds between two looks of a worker into the ``filesystem://`` folders."""
    queue_prefix: str = ""
    """Put before each queue name, so that several sites can share one broker."""


class QueueSettings(_Frozen):
    """The queue of record."""

    lease_s: float = Field(default=60.0, gt=0)
    """Seconds after which a job whose worker went silent is given to another."""
    hard_limit_s: float = Field(default=900.0, gt=0)
    """Seconds a job may take, and a sweep: then its process ends itself and is started again, and the job is tried
    again. A process that is stopped (SIGSTOP, a debugger) is replaced after as long, or after 30 s if that is less."""
    sweep_interval_s: float = Field(default=1.0, gt=0)
    """Seconds between two sweeps."""
    max_attempts: int = Field(default=5, ge=1)
    """Attempts of a job before it is dead. Those that failed because somebody else did not answer do not count."""
    give_up_after_h: float = Field(default=72.0, gt=0)
    """Hours after which a job is dead that failed all the time because a destination, or the archive that has to say
    whose a study is, did not answer or was busy. What a destination refuses for good is dead at once."""
    ask_again_s: float = Field(default=20.0, gt=0)
    """Seconds between two questions to the archive while its count differs from ours."""
    backoff_first_s: float = Field(default=5.0, gt=0)
    """Longest wait before the second attempt; each further wait doubles."""
    backoff_cap_s: float = Field(default=300.0, gt=0)
    """Longest wait between two attempts; a failing destination that works again is noticed within it."""


class IdentitySettings(_Frozen):
    """What the images of a study have to agree in, beyond what says who the patient is."""

    strict: tuple[Demographic, ...] = ()
    """`patient_name`, `patient_sex` or both: a study whose images differ in it is held. Otherwise it is read, states
    what its first image says, and its draft says that the images differ."""


class CharacterSetUse(StrEnum):
    """To which objects of a sender the character set of its line applies."""

    #: To those that state none.
    ABSENT = "absent"
    #: To every one: what it states is false.
    ALWAYS = "always"


class SenderSettings(_Frozen):
    """What is different about one sender or one modality: its quiet period, its character set."""

    ae_title: AeTitle | None = None
    """Calling AE title this line is for; any where absent."""
    modality: str | None = None
    """Modality this line is for; any where absent."""
    quiet_period_s: float | None = Field(default=None, gt=0)
    """Seconds without a new image after which the study counts as complete."""
    character_set: str | None = None
    """Character set of its texts: a defined term of DICOM (`ISO_IR 100`, `GB18030`, several with a backslash between
    them) or a codec of Python (`windows-1252`, `euc-kr`). Every object read with it says so in `wetread why`."""
    character_set_applies: CharacterSetUse = CharacterSetUse.ABSENT
    """`absent`: to objects that state no SpecificCharacterSet; `always`: also to those that state a false one."""

    @field_validator("character_set")
    @classmethod
    def _character_set_is_known(cls, value: str | None) -> str | None:
        if value is not None and not is_character_set(value):
            raise ValueError(
                "no character set has this name; DICOM names such as GB18030, GBK, ISO_IR 100 or ISO_IR 192 "
                "are known, and those of Python such as windows-1252 or euc-kr"
            )
        return value

    @model_validator(mode="after")
    def _line_says_something(self) -> Self:
        if self.quiet_period_s is None and self.character_set is None:
            raise ValueError("a line of senders needs quiet_period_s or character_set")
        return self

    def is_for(self, calling_ae_title: str, modality: str) -> bool:
        """Say whether this line is for a sender and modality."""
        return self.ae_title in (None, calling_ae_title) and self.modality in (None, modality)


class TlsSettings(_Frozen):
    """TLS of a port we listen on: 1.2 or newer, suites with forward secrecy (PS3.15 B.12, BCP 195)."""

    certificate: Path
    """Our certificate with its chain, PEM."""
    private_key: Path
    """Its key, PEM, without passphrase; only the service may read the file."""
    trusted: Path | None = None
    """Authorities (PEM) one of which has to have signed the certificate of every peer; absent: peers need none."""
    allowed_certificates: tuple[Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")], ...] = ()
    """SHA-256 of the certificates (DER, in hexadecimal) peers may show; empty: any that `trusted` vouches for."""
    handshake_timeout_s: float = Field(default=5.0, gt=0)
    """Seconds the whole handshake may take."""

    @model_validator(mode="after")
    def _list_needs_authorities(self) -> Self:
        if self.allowed_certificates and self.trusted is None:
            raise ValueError("allowed_certificates needs trusted: otherwise no peer shows a certificate")
        return self


class ListenerSettings(_Frozen):
    """The DICOM listener."""

    ae_title: AeTitle = "WETREAD"
    """Our AE title; another called AE title is rejected."""
    host: str = "127.0.0.1"
    """Address to listen on; loopback until a site says otherwise."""
    port: Port = 11112
    """TCP port; 0 takes a free one."""
    quiet_period_s: float = Field(default=30.0, gt=0)
    """Seconds without a new image after which a study counts as complete."""
    senders: tuple[SenderSettings, ...] = ()
    """Quiet periods and character sets of single senders; of the lines that name one, the first that fits wins."""
    allowed_calling_ae_titles: tuple[AeTitle, ...] = ()
    """Calling AE titles that may associate; empty: any that the address allows."""
    allowed_networks: tuple[str, ...] = ("127.0.0.0/8", "::1/128")
    """Peer addresses (CIDR) that may associate."""
    tls: TlsSettings | None = None
    """TLS for every association; absent: none, which only a closed network may do."""
    max_associations: int = Field(default=100, ge=1)
    """Associations at one time, all senders together."""
    max_associations_per_ae: int = Field(default=50, ge=1)
    """Associations at one time of one calling AE title."""
    max_associations_per_address: int = Field(default=50, ge=1)
    """Connections at one time from one address, from their first byte on, whatever titles they state. Below
    `max_associations`, one address cannot hold every place; one that forwards for many senders may need more."""
    max_pdu_bytes: int = Field(default=262144, ge=4096)
    """Longest P-DATA PDU we accept."""
    acse_timeout_s: float = Field(default=5.0, gt=0)
    """Seconds a connection may take to ask for an association."""
    network_timeout_s: float = Field(default=60.0, gt=0)
    """Seconds of silence after which an association is aborted."""
    min_free_bytes: int = Field(default=2_000_000_000, ge=0)
    """Free space under which nothing more is accepted."""
    longest_delay_s: float = Field(default=10.0, ge=0)
    """Seconds the answer to an object may be held back while rows lag behind or the database refuses, before it is
    refused with 0xA700: many senders never try again. Below the time-out of every sender."""
    processes: int = Field(default=2, ge=1)
    """Processes that receive; associations are spread over them. 1 receives in the listener's own."""
    row_before_ack: bool = False
    """Answer a sender only when the database knows the object too. Nothing is safer by it: a start finds every
    acknowledged object on disk. It is slower, and an object is refused while the database does not answer."""

    def quiet_period_of(self, calling_ae_title: str, modality: str) -> float:
        """Return the quiet period of a sender and modality, in seconds."""
        for sender in self.senders:
            if sender.quiet_period_s is not None and sender.is_for(calling_ae_title, modality):
                return sender.quiet_period_s
        return self.quiet_period_s

    def character_set_of(self, calling_ae_title: str, modality: str) -> SenderSettings | None:
        """Return the line that gives the character set of a sender and modality, None where none does."""
        for sender in self.senders:
            if sender.character_set is not None and sender.is_for(calling_ae_title, modality):
                return sender
        return None


class StowSettings(_Frozen):
    """The STOW-RS endpoint (PS3.18 10.5) inside the listener's process; its allow-list of addresses counts here too."""

    host: str = "127.0.0.1"
    """Address to listen on; another one than loopback needs `tls`."""
    port: Port = 8080
    """TCP port; 0 takes a free one."""
    token: SecretStr = Field(min_length=16)
    """Senders show it: ``Authorization: Bearer <token>``."""
    calling_ae_title: AeTitle = "STOW"
    """Stands for the calling AE title where one is recorded, and in the lines of `senders`."""
    tls: TlsSettings | None = None
    """TLS; absent only behind a proxy on this machine."""
    max_requests: int = Field(default=16, ge=1)
    """Requests at one time; more are told to come back."""
    max_requests_per_address: int = Field(default=8, ge=1)
    """Requests at one time from one address. Behind a proxy all senders have the proxy's."""
    timeout_s: float = Field(default=60.0, gt=0)
    """Seconds of silence inside a request after which it is given up."""

    @model_validator(mode="after")
    def _token_stays_secret(self) -> Self:
        if self.tls is None and self.host not in ("127.0.0.1", "::1", "localhost"):
            raise ValueError("a host that is not loopback needs tls: the token would travel in the clear")
        return self


class PullMethod(StrEnum):
    """How missing images are fetched from the archive."""

    #: They are not; the draft says "n of m".
    NEVER = "never"
    #: C-GET over our own association.
    C_GET = "c_get"
    #: C-MOVE to our listener; the archive has to know our AE title.
    C_MOVE = "c_move"


class PriorSettings(_Frozen):
    """Earlier studies of the same patient, fetched by C-GET for the reader."""

    max_studies: int = Field(default=0, ge=0)
    """Earlier studies fetched, newest first: same body part, same group of modalities; 0 fetches none."""
    max_images_per_study: int = Field(default=16, ge=1)
    """Images fetched of each, evenly spaced where it has more."""


class QuerySettings(_Frozen):
    """An application entity that answers C-FIND."""

    host: str
    """Host name or address."""
    port: Port
    """TCP port."""
    ae_title: AeTitle
    """Called AE title."""
    calling_ae_title: AeTitle = "WETREAD"
    """AE title we call with."""
    timeout_s: float = Field(default=30.0, gt=0)
    """Seconds to wait for a connection or an answer."""


class ArchiveSettings(QuerySettings):
    """The PACS that is asked how many images a study has, and whose it is."""

    pull: PullMethod = PullMethod.NEVER
    """What to do about images the archive has and we do not."""
    max_questions: int = Field(default=5, ge=1)
    """Questions after which the study is read as it is."""
    priors: PriorSettings = PriorSettings()
    """Earlier studies of the patient."""


class ResultStatus(StrEnum):
    """OBR-25 as the site wants it; F and C do not exist here."""

    #: Preliminary.
    PRELIMINARY = "P"
    #: Stored, not yet verified.
    STORED = "R"


class IdentityCheck(StrEnum):
    """What it takes that a result may go out: the archive may know the study under another patient by now."""

    #: The archive has the study under the same patient; until it says so, the result waits.
    REQUIRED = "required"
    #: The archive does not contradict; one that does not answer, or does not know the study, is noted.
    BEST_EFFORT = "best_effort"
    #: The archive is not asked.
    OFF = "off"


class _CheckedDestination(_Frozen):
    identity_check: IdentityCheck | None = None
    """Whether an archive is asked whose the study is before a result is made and before it is first sent;
    default: best_effort where there is one to ask."""
    query: QuerySettings | None = None
    """Who is asked; default: `archive`."""


class DicomDestination(_CheckedDestination):
    """A DICOM archive that takes our SR by C-STORE."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_-]*$", max_length=64)
    """Name used by pipelines."""
    kind: Literal["dicom"]
    """This line is a DICOM destination."""
    host: str
    """Host name or address."""
    port: Port
    """TCP port."""
    ae_title: AeTitle
    """Called AE title."""
    calling_ae_title: AeTitle = "WETREAD"
    """AE title we call with."""
    rejection_notes: bool = False
    """The archive takes rejection notes (IHE RAD IOCM): each new draft of a study withdraws the one before it."""
    timeout_s: float = Field(default=30.0, gt=0)
    """Seconds to wait for a connection or an answer."""


class Hl7Destination(_CheckedDestination):
    """A RIS that takes our ORU^R01 by MLLP."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_-]*$", max_length=64)
    """Name used by pipelines."""
    kind: Literal["hl7"]
    """This line is an HL7 destination."""
    host: str
    """Host name or address."""
    port: Port
    """TCP port."""
    result_status: ResultStatus
    """OBR-25, without default. P: many receivers show it as a preliminary report, some archives turn it into a
    *verified* one (dcm4chee's stock mapping). R: stored, not yet verified; a few receivers take it as a withdrawal."""
    receiving_application: str = "RIS"
    """MSH-5."""
    receiving_facility: str = ""
    """MSH-6."""
    sending_application: str = "WETREAD"
    """MSH-3."""
    sending_facility: str = ""
    """MSH-4."""
    charset: Literal["UNICODE UTF-8", "GB 18030-2000", "8859/1"] = "UNICODE UTF-8"
    """MSH-18 and the encoding of the bytes."""
    connection: Literal["per_message", "persistent"] = "per_message"
    """One connection a message, or one kept open."""
    patient_id_namespace: str = ""
    """PID-3 assigning authority where the study names none."""
    states_study_instance_uid: bool = True
    """The first OBX carries the StudyInstanceUID, by which a receiver finds the images. Some RIS print it at the head
    of the report: false leaves it out."""
    timeout_s: float = Field(default=30.0, gt=0)
    """Seconds to wait for a connection or the acknowledgement."""


Destination = Annotated[DicomDestination | Hl7Destination, Field(discriminator="kind")]


class DeviceSettings(_Frozen):
    """How results name the machine that made them; a site states it before anything leaves this machine."""

    organization: str = Field(default="WETREAD", pattern=r"^[A-Z0-9]{1,10}$")
    """Names the private coding scheme 99<organization>."""
    institution_name: str = Field(default="Wetread demonstration", max_length=64)
    """InstitutionName of the author."""
    station_name: str = Field(default="WETREAD", max_length=16)
    """StationName."""
    device_serial_number: str = Field(default="1", max_length=64)
    """DeviceSerialNumber."""
    device_uid: str = ""
    """DeviceUID, for a site that has one for this installation; empty: the one that was generated at the first start
    and is kept in the database."""
    timezone: str = "UTC"
    """IANA time zone in which results state dates and times."""

    @field_validator("institution_name", "station_name", "device_serial_number")
    @classmethod
    def _can_be_written(cls, value: str) -> str:
        return require_writable(value)

    @field_validator("device_uid")
    @classmethod
    def _is_a_uid_of_its_own(cls, value: str) -> str:
        return require_own_uid(value)

    @field_validator("timezone")
    @classmethod
    def _is_a_time_zone(cls, value: str) -> str:
        return require_time_zone(value)


def require_writable(value: str) -> str:
    """Return a text that DICOM can carry in one value (PS3.5 6.2, LO and SH)."""
    if not value.strip():
        raise ValueError("is empty; write a text or leave the key out")
    if "\\" in value or any(unicodedata.category(one) in {"Cc", "Cs"} for one in value):
        raise ValueError("holds a backslash, a line break or another control character, which DICOM cannot carry here")
    return value


def require_own_uid(value: str) -> str:
    """Return a UID as PS3.5 9.1 wants it, which is not the one that every installation had; empty is allowed."""
    if value and (len(value) > _LONGEST_UID or not _UID.fullmatch(value)):
        raise ValueError(
            "is no UID: numbers joined by dots, none with a leading zero, 64 characters at most; "
            "leave the key out and one is generated"
        )
    if value == SHIPPED_DEVICE_UID:
        raise ValueError("is the UID that every installation once had; leave the key out and one is generated")
    return value


def require_time_zone(value: str) -> str:
    """Return the name of a time zone that exists on this machine."""
    wanted = "is no IANA time zone known here; write one like Europe/Berlin, Asia/Shanghai or Etc/UTC"
    if not _ZONE.fullmatch(value) or value in _NO_ZONES:
        raise ValueError(wanted)
    if value == "UTC":
        return value
    try:
        ZoneInfo(value)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(wanted) from None
    return value


_LONGEST_UID = 64
_UID = re.compile(r"[0-2](\.(0|[1-9][0-9]*))+")
#: The folders posix/ and right/ of a system repeat the zones; leap seconds are in the second.
_ZONE = re.compile(r"(?!posix/|right/)[A-Za-z][A-Za-z0-9_+-]*(/[A-Za-z0-9_+-]+)*")
#: Files beside the zones that mean another one on each machine, or none.
_NO_ZONES = frozenset({"localtime", "posixrules", "Factory"})


class WorkerSettings(_Frozen):
    """The reading side."""

    device: str = Field(default="cpu", pattern=r"^(cpu|cuda(:\d+)?)$")
    """Where the model runs."""
    threads: int = Field(default=2, ge=1)
    """CPU threads of one model."""
    max_image_bytes: int = Field(default=64 << 20, gt=0)
    """Decoded bytes of one frame over which it is neither read nor decoded to be compared; it takes four times as much
    memory."""


class Settings(BaseSettings):
    """All settings of one node."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,
        use_attribute_docstrings=True,
        env_prefix=_ENVIRONMENT_PREFIX,
        env_nested_delimiter="__",
    )

    data_directory: Path = Path("data")
    """Where received objects, the embedded database and the wake-up folders lie."""
    database: DatabaseSettings = DatabaseSettings()
    """The database."""
    broker: BrokerSettings = BrokerSettings()
    """The wake-up bus."""
    queue: QueueSettings = QueueSettings()
    """The queue of record."""
    listener: ListenerSettings = ListenerSettings()
    """The DICOM listener."""
    stow: StowSettings | None = None
    """The STOW-RS endpoint; absent: there is none."""
    identity: IdentitySettings = IdentitySettings()
    """What the images of a study have to agree in."""
    device: DeviceSettings = DeviceSettings()
    """How results name this machine."""
    worker: WorkerSettings = WorkerSettings()
    """The reading side."""
    archive: ArchiveSettings | None = None
    """The PACS that is asked for the image count of a study; absent: the quiet period alone decides."""
    destinations: tuple[Destination, ...] = ()
    """Where results go."""
    config_directory: Path = SHIPPED_CONFIG_DIRECTORY
    """The folder this tree was read from: pipelines, checks and models lie beside node.yaml."""

    @field_validator("destinations")
    @classmethod
    def _names_are_unique(cls, value: tuple[Any, ...]) -> tuple[Any, ...]:
        names = [destination.name for destination in value]
        if len(set(names)) != len(names):
            raise ValueError("a destination name stands twice")
        return value

    @model_validator(mode="after")
    def _somebody_can_be_asked(self) -> Self:
        for one in self.destinations:
            wants = one.identity_check not in (None, IdentityCheck.OFF)
            if wants and one.query is None and self.archive is None:
                raise ValueError(
                    f"destination {one.name}: identity_check is {one.identity_check}, but there is nobody to ask: "
                    "set archive, or query of this destination"
                )
        return self

    @model_validator(mode="before")
    @classmethod
    def _name_the_nearest_key(cls, data: Any) -> Any:
        if isinstance(data, dict):
            _refuse_unknown(data, cls, ())
        return data

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Let the environment win over the file."""
        _ = settings_cls, dotenv_settings, file_secret_settings
        return env_settings, init_settings

    @property
    def database_url(self) -> str:
        """The database URL in force, secrets included: never print it."""
        if self.database.url is not None:
            return self.database.url.get_secret_value()
        return f"sqlite:///{(self.data_directory / 'wetread.sqlite').resolve()}"

    def destination(self, name: str) -> DicomDestination | Hl7Destination:
        """Return the destination of this name.

        Raises
        ------
        SettingsError
            When there is none.
        """
        for destination in self.destinations:
            if destination.name == name:
                return destination
        raise SettingsError(f"{self.config_directory / 'node.yaml'}: no destination is named {name}")

    def identity_check(self, name: str) -> tuple[IdentityCheck, QuerySettings | None]:
        """Return what a destination wants of an archive before it is sent to, and which archive that is.

        Raises
        ------
        SettingsError
            When there is no such destination.
        """
        destination = self.destination(name)
        asked = destination.query or self.archive
        if asked is None:
            return IdentityCheck.OFF, None
        return destination.identity_check or IdentityCheck.BEST_EFFORT, asked


def load_settings(config_directory: Path | None = None, data_directory: Path | None = None) -> Settings:
    """Read `node.yaml` of a configuration folder, with the environment over it.

    Raises
    ------
    SettingsError
        When the file is missing or wrong; names the file and each key, never a value.
    """
    named = environment(CONFIG_DIRECTORY_VARIABLE)
    directory = (config_directory or (Path(named) if named else SHIPPED_CONFIG_DIRECTORY)).resolve()
    path = directory / "node.yaml"
    try:
        text = path.read_text(encoding="utf-8")
        content = yaml.safe_load(text) or {}
    except FileNotFoundError:
        raise SettingsError(f"{path}: no such file") from None
    except (yaml.YAMLError, UnicodeDecodeError):
        raise SettingsError(f"{path}: not valid YAML in UTF-8") from None
    if not isinstance(content, dict):
        raise SettingsError(f"{path}: the file has to be a mapping of settings")
    _refuse_unknown_environment()
    try:
        settings = Settings(**content)
    except UnreadableSource as error:
        # Its text names the setting and the source, never the value.
        raise SettingsError(f"environment: {error}") from None
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, one['loc'])) or 'node.yaml'}{_line_of(text, one['loc'])}: {_in_words(one['msg'])}"
            for one in error.errors(include_input=False, include_url=False)
        )
        raise SettingsError(f"{path}: {problems}") from None
    return settings.model_copy(
        update={"config_directory": directory, "data_directory": (data_directory or settings.data_directory).resolve()}
    )


def _in_words(message: str) -> str:
    # What pydantic puts before a sentence of ours says nothing to a person.
    return message.removeprefix("Value error, ")


def _line_of(text: str, place: Sequence[str | int]) -> str:
    """Return where a key stands in a YAML file; empty where it does not: the environment or a default says it."""
    variable = _ENVIRONMENT_PREFIX + "__".join(map(str, place)).upper()
    if any(name.upper() == variable for name in os.environ):
        return f" (environment variable {variable})"
    node, line = yaml.compose(text, yaml.SafeLoader), 0
    for step in place:
        if isinstance(node, yaml.MappingNode):
            # The kind of a destination is a step of the place, and no key of the file.
            found = next(((key, value) for key, value in node.value if key.value == str(step)), None)
            if found is not None:
                line, node = found[0].start_mark.line + 1, found[1]
            elif step is place[-1]:
                return f" (missing; line {line})" if line else ""
        elif isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
            node = node.value[step]
            line = node.start_mark.line + 1
    return f" (line {line})" if line else ""


def environment(name: str) -> str | None:
    """Return an environment variable; the only door to the environment."""
    return os.environ.get(name)


def inherited_environment(changes: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a process we start: ours, with changes."""
    return {**os.environ, **changes}


def _refuse_unknown(data: dict[Any, Any], model: type[BaseModel], place: tuple[str, ...]) -> None:
    for key, value in data.items():
        if key not in model.model_fields:
            near = difflib.get_close_matches(str(key), model.model_fields, n=1)
            hint = f"; did you mean {'.'.join((*place, near[0]))}?" if near else ""
            raise ValueError(f"unknown key {'.'.join((*place, str(key)))}{hint}")
        inner = model.model_fields[key].annotation
        if isinstance(value, dict) and isinstance(inner, type) and issubclass(inner, BaseModel):
            _refuse_unknown(value, inner, (*place, str(key)))


def _refuse_unknown_environment() -> None:
    # pydantic-settings ignores environment names it does not know; a mistyped one would silently do nothing.
    known = tuple(f"{_ENVIRONMENT_PREFIX}{name}".upper() for name in Settings.model_fields)
    for name in os.environ:
        if not name.upper().startswith(_ENVIRONMENT_PREFIX) or name.upper().startswith(_FOREIGN_PREFIXES):
            continue
        if name.upper().split("__")[0] not in known:
            raise SettingsError(f"environment variable {name}: no such setting")


#: Read by the tests and the build, not by the program.
_FOREIGN_PREFIXES = (f"{_ENVIRONMENT_PREFIX}TEST_", f"{_ENVIRONMENT_PREFIX}REQUIRE_")

"""Every error that Quorate raises on purpose.

QuorateError
├── ConfigError            the experiment or a command line says something that cannot be done
│   ├── PluginError        a plugin is unknown, broken, or its parameters are wrong
│   └── SettingsError      the environment (URLs, credentials, folders) is wrong
├── DataError              images, folders, splits and partitions
├── CodecError             a payload that cannot be encoded or decoded
├── BlobError              the object store
│   ├── BlobMissing        nothing is stored under that key
│   ├── BlobExists         the key is written already (write-once)
│   ├── BlobCorrupt        size or hash differ from what was promised
│   ├── GrantRefused       expired, another key, another method
│   └── BlobUnavailable    the object store does not answer, or not now: later it may
├── StoreError             the state store or the stream
│   └── StoreUnavailable   it does not answer, or not now: later it may
├── BusError               a task may or may not have been published: send the same task_id again
├── LeaseLost              another loop owns the run (exit code 3)
└── RunFailed              the run ended without its last version; says why
    ├── QuorumError        too few updates, `retries` times
    ├── AggregationError   the fold or the merge cannot give a next state
    └── Cancelled          an operator said so

A worker's bad input is none of these: it is a recorded rejection (`schemas.messages.Rejected`).
"""


class QuorateError(Exception):
    """Something went wrong that Quorate knows how to name."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        # A file's name may hold bytes that are no text; what is said of it must fit into JSON and on a terminal.
        self.message, self.hint = (text.encode(errors="backslashreplace").decode() for text in (message, hint))
        super().__init__(self.message)

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class ConfigError(QuorateError):
    """The experiment or the command line asks for something that cannot be done."""

    exit_code = 2


class PluginError(ConfigError):
    """A plugin is unknown, cannot be loaded, or does not accept its parameters."""


class SettingsError(ConfigError):
    """The environment is wrong."""


class DataError(QuorateError):
    """Images, folders, splits or partitions are not usable."""

    exit_code = 2


class CodecError(QuorateError):
    """A payload cannot be encoded or decoded."""


class BlobError(QuorateError):
    """The object store failed."""


class BlobMissing(BlobError):
    """Nothing is stored under the key."""


class BlobExists(BlobError):
    """The key is written already."""


class BlobCorrupt(BlobError):
    """Size or hash differ from what was promised."""


class GrantRefused(BlobError):
    """The store refused a grant: expired, another key or another method."""


class BlobUnavailable(BlobError):
    """The object store does not answer, or says that it cannot now. Later it may."""


class StoreError(QuorateError):
    """The state store or the stream failed."""


class StoreUnavailable(StoreError):
    """The state store or the stream does not answer, or says that it cannot now. Later it may."""


class BusError(QuorateError):
    """It is unknown whether a task was published."""


class LeaseLost(QuorateError):
    """Another loop owns the run."""

    exit_code = 3


class RunFailed(QuorateError):
    """The run ended before its last version."""


class QuorumError(RunFailed):
    """Too few updates arrived, as often as `retries` allows."""


class Cancelled(RunFailed):
    """An operator cancelled the run."""


class AggregationError(RunFailed):
    """The fold or the merge cannot give a next state."""

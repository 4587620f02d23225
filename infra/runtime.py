"""One place that turns settings into a store, a stream, a state store and a bus: by the scheme of each URL.

The client library of a server is imported only when its scheme asks for it. Knows no experiment and no decision.
"""

from collections.abc import Callable
from dataclasses import dataclass

from infra.blobs import BlobStore, FileBlobs
from infra.bus import Bus, LocalBus
from infra.clock import Clock, WallClock
from infra.settings import Settings, folder
from infra.state import FileState, StateStore
from infra.stream import FileStream, Stream
from schemas.errors import SettingsError

Work = Callable[[Stream, StateStore], Callable[[str], None]]
"""Builds the function that does a task in this process."""


@dataclass(frozen=True)
class Runtime:
    """What a run stands on. The clock of the run is `bus.clock`."""

    blobs: BlobStore
    state: StateStore
    stream: Stream
    bus: Bus


def connect(settings: Settings, work: Work | None = None) -> Runtime:
    """The servers that the settings name; `work` does the tasks of a `local:` bus.

    Raises SettingsError, and StoreError or BlobError if a server cannot be reached.
    """
    blobs = connect_blobs(settings)
    if settings.bus.startswith("local:"):
        return _local(settings, blobs, work)
    from infra.celery_bus import CeleryBus  # noqa: PLC0415

    clock = WallClock()
    stream, state = connect_stream(settings, clock)
    return Runtime(blobs=blobs, state=state, stream=stream, bus=CeleryBus(settings.bus_url, clock))


def connect_blobs(settings: Settings) -> BlobStore:
    """The object store alone. Raises BlobError if it cannot be reached or the bucket cannot be made."""
    if settings.blobs.startswith("file:"):
        return FileBlobs(folder(settings.blobs))
    if not (settings.s3_access_key and settings.s3_secret_key.get_secret_value()):
        raise SettingsError("QUORATE_S3_ACCESS_KEY and QUORATE_S3_SECRET_KEY are needed for an S3 in QUORATE_BLOBS")
    from infra.minio_blobs import MinioBlobs  # noqa: PLC0415

    return MinioBlobs(
        settings.blobs,
        access_key=settings.s3_access_key,
        secret_key=settings.s3_secret_key.get_secret_value(),
        region=settings.s3_region,
        public=settings.s3_public,
    )


def connect_state(settings: Settings) -> StateStore:
    """The state store alone, to look at. Raises StoreError if it cannot be reached."""
    if settings.state.startswith("file:"):
        return FileState(folder(settings.state))
    from infra.redis_state import RedisState  # noqa: PLC0415

    return RedisState(settings.state_url)


def connect_stream(settings: Settings, clock: Clock) -> tuple[Stream, StateStore]:
    """Where a worker reports: stream and state on Redis. Raises SettingsError if none is named, StoreError."""
    if settings.state.startswith("file:"):
        raise SettingsError("QUORATE_BUS and QUORATE_STATE must be Redis URLs for a worker to be of use")
    from infra.redis_state import RedisState  # noqa: PLC0415
    from infra.redis_stream import RedisStream  # noqa: PLC0415

    return RedisStream(settings.state_url, clock), RedisState(settings.state_url)


def _local(settings: Settings, blobs: BlobStore, work: Work | None) -> Runtime:
    bus = LocalBus(_nobody)
    stream, state = FileStream(folder(settings.state), bus.clock), FileState(folder(settings.state))
    if work is not None:
        bus.execute = work(stream, state)
    return Runtime(blobs=blobs, state=state, stream=stream, bus=bus)


def _nobody(text: str) -> None:
    raise SettingsError("QUORATE_BUS is local:, and nothing here does the work", hint="set QUORATE_BUS to a Redis URL")

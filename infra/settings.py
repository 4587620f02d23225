"""What the environment says: where the servers are, with which credentials, and how much to log.

The only reader of environment variables (`QUORATE_*`). `QUORATE_<NAME>_FILE` names a file that holds the value
instead, for every setting, as container secrets want it. Knows no server and imports no client library.

blobs: `file:FOLDER`, or `http(s)://HOST[:PORT]/BUCKET` of any S3.   state (with the stream): `file:FOLDER`, or Redis.
bus: `local:` (this process), or Redis.   Redis: `redis://HOST[:PORT][/DB]`, `rediss://…`, `unix:///SOCKET[?db=DB]`.
"""

import os
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import parse_qs, quote, urlsplit

from pydantic import AfterValidator, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict
from pydantic_settings import SettingsError as _SourceError

from schemas.errors import SettingsError

PREFIX = "QUORATE_"
REDIS = ("redis", "rediss", "unix")
Level = Literal["debug", "info", "warning", "error"]


def _s3(url: str) -> str:
    parts = urlsplit(url)
    bucket = parts.path.strip("/")
    if not parts.hostname or parts.port == 0 or not bucket or "/" in bucket:
        raise ValueError("an S3 URL reads http://HOST:PORT/BUCKET")
    if parts.username or parts.password:
        raise ValueError("credentials go into QUORATE_S3_ACCESS_KEY and QUORATE_S3_SECRET_KEY, not into the URL")
    return url


def _redis(url: str) -> str:
    parts = urlsplit(url)
    place = parts.path if parts.scheme == "unix" else parts.hostname
    database = parse_qs(parts.query).get("db", ["0"])[0] if parts.scheme == "unix" else parts.path.strip("/") or "0"
    if not place or not database.isdigit() or parts.port == 0:
        raise ValueError("a Redis URL reads redis://HOST:PORT/0, rediss://HOST:PORT/0 or unix:///SOCKET?db=0")
    return url


def _url(url: str, schemes: tuple[str, ...]) -> str:
    scheme, colon, rest = url.partition(":")
    if not colon or scheme not in schemes:
        raise ValueError(f"must begin with one of {', '.join(s + ':' for s in schemes)}")
    if scheme == "file" and not rest:
        raise ValueError("must name a folder, e.g. file:.quorate/blobs")
    if scheme in ("http", "https"):
        return _s3(url)
    return _redis(url) if scheme in REDIS else url


def _address(value: str) -> str:
    parts = urlsplit(f"//{value}")
    try:
        whole = bool(value.isdigit() or (parts.hostname and parts.port)) and f"//{value}" == f"//{parts.netloc}"
        port = int(value) if value.isdigit() else parts.port or 0
    except ValueError:  # of a port that is none
        whole, port = False, 0
    if value and not (whole and 0 < port < 65_536 and "@" not in value):
        raise ValueError("an address reads HOST:PORT, or PORT for 127.0.0.1:PORT")
    return value


Blobs = Annotated[str, AfterValidator(lambda url: _url(url, ("file", "http", "https")))]
State = Annotated[str, AfterValidator(lambda url: _url(url, ("file", *REDIS)))]
Bus = Annotated[str, AfterValidator(lambda url: _url(url, ("local", *REDIS)))]


Address = Annotated[str, AfterValidator(_address)]


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "quorate"


class _Files(PydanticBaseSettingsSource):
    """`QUORATE_<NAME>_FILE`: the value is the content of that file, without surrounding white space."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """The content of the file named for this field, or None."""
        variable = f"{PREFIX}{field_name.upper()}_FILE"
        path = os.environ.get(variable)
        if not path:
            return None, field_name, False
        try:
            with Path(path).open(encoding="utf-8") as f:
                return f.read(65_536).strip(), field_name, False  # and no more: /dev/zero has no end
        except (OSError, UnicodeDecodeError) as e:
            raise SettingsError(
                f"{variable}: cannot read {path}: {getattr(e, 'strerror', None) or 'not text'}"
            ) from None

    def __call__(self) -> dict[str, Any]:
        """All fields for which a file is named."""
        found = {name: self.get_field_value(field, name)[0] for name, field in self.settings_cls.model_fields.items()}
        return {name: value for name, value in found.items() if value is not None}


class Settings(BaseSettings):
    """The environment, checked.

    s3_public: the S3 endpoint as the workers see it (`http://HOST:PORT`), where it differs; grants are signed for it.
    redis_password: for Redis URLs that hold none. log_json: JSON lines on a terminal too.
    metrics: where the loop serves Prometheus metrics (`HOST:PORT`, or `PORT` of 127.0.0.1); empty for nowhere.
    tensorboard: folder into which a run writes scalars for TensorBoard, in one of its name; empty for nowhere.
    patience_s: how long the loop waits for a server that does not answer.
    """

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="ignore")

    blobs: Blobs = "file:.quorate/blobs"
    state: State = Field(default="file:.quorate/state", repr=False)
    bus: Bus = Field(default="local:", repr=False)
    cache: Path = Field(default_factory=_cache)
    log: Level = "info"
    log_json: bool = False
    s3_access_key: str = ""
    s3_secret_key: SecretStr = SecretStr("")
    s3_region: str = "us-east-1"
    s3_public: str = ""
    redis_password: SecretStr = SecretStr("")
    metrics: Address = ""
    tensorboard: str = Field(default="", max_length=4096)
    patience_s: float = Field(default=300.0, ge=0, le=86_400, allow_inf_nan=False)

    @field_validator("log", mode="before")
    @classmethod
    def _lower(cls, value: object) -> object:
        return value.lower() if isinstance(value, str) else value

    @model_validator(mode="after")
    def _belong_together(self) -> Self:
        if self.bus.startswith("local:") != self.state.startswith("file:"):
            raise ValueError("QUORATE_BUS and QUORATE_STATE belong together: both Redis, or `local:` and `file:`")
        return self

    @property
    def state_url(self) -> str:
        """The state's URL with its password. A secret: never print it."""
        return self._with_password(self.state)

    @property
    def bus_url(self) -> str:
        """The broker's URL with its password. A secret: never print it."""
        return self._with_password(self.bus)

    @property
    def metrics_address(self) -> tuple[str, int] | None:
        """(host, port) of the metrics, or None."""
        parts = urlsplit(f"//127.0.0.1:{self.metrics}" if self.metrics.isdigit() else f"//{self.metrics}")
        return (parts.hostname, parts.port) if parts.hostname and parts.port else None

    def _with_password(self, url: str) -> str:
        parts, password = urlsplit(url), quote(self.redis_password.get_secret_value(), safe="")
        if not password or parts.password or parts.scheme not in REDIS:
            return url
        return parts._replace(netloc=f"{parts.username or ''}:{password}@{parts.netloc.rpartition('@')[2]}").geturl()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Environment first, then the files that it names. No dotenv: the shell or compose reads that."""
        return init_settings, env_settings, _Files(settings_cls)


def read() -> Settings:
    """The settings of this process. Raises SettingsError, one line that names the variable."""
    try:
        return Settings()
    except ValidationError as e:
        first = e.errors()[0]
        variable = PREFIX + str(first["loc"][0]).upper() + ": " if first["loc"] else ""
        raise SettingsError(variable + first["msg"].removeprefix("Value error, ")) from None
    except _SourceError as e:
        raise SettingsError(str(e).splitlines()[0]) from None


def folder(url: str) -> Path:
    """The folder of a `file:` URL, relative or absolute."""
    path = url.removeprefix("file:")
    return Path(path.removeprefix("//") if path.startswith("//") else path)

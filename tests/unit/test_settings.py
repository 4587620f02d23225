import resource
from pathlib import Path

import pytest

from infra.blobs import FileBlobs
from infra.runtime import connect
from infra.settings import Settings, folder, read
from schemas.errors import SettingsError


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in [n for n in os.environ if n.startswith("QUORATE_")]:
        monkeypatch.delenv(name)


def test_an_empty_environment_means_this_machine_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    settings = read()
    assert (settings.blobs, settings.state, settings.bus) == ("file:.quorate/blobs", "file:.quorate/state", "local:")
    assert settings.cache == tmp_path / "quorate"


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("BLOBS", "s3://bucket", "must begin with one of file:, http:, https:"),
        ("BLOBS", "http://host:9000", "http://HOST:PORT/BUCKET"),
        ("BLOBS", "http://me:secret@host/bucket", "QUORATE_S3_ACCESS_KEY"),
        ("BLOBS", "file:", "folder"),
        ("BLOBS", "", "must begin"),
        ("BLOBS", "http://host:99999/bucket", "out of range"),
        ("STATE", "redis://", "redis://HOST:PORT/0"),
        ("STATE", "redis://host/zero", "redis://HOST:PORT/0"),
        ("STATE", "unix://", "unix:///SOCKET"),
        ("BUS", "amqp://host", "must begin with one of local:, redis:, rediss:, unix:"),
        ("BUS", "redis://host/0", "belong together"),
        *(
            ("METRICS", wrong, "HOST:PORT")
            for wrong in ("0", "65536", "9464x", "host", "host:", ":9464", "a:b:1", "h:1/x")
        ),
        ("METRICS", "me:secret@host:9464", "HOST:PORT"),
        ("METRICS", "9" * 10_000, "HOST:PORT"),
        ("LOG", "loud", "debug"),
        ("LOG", "x" * 1_000_000, "debug"),
    ],
)
def test_a_wrong_value_is_one_line_that_says_what_to_write(
    name: str, value: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"QUORATE_{name}", value)
    with pytest.raises(SettingsError, match="QUORATE_") as caught:
        read()
    assert said in str(caught.value)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300
    assert caught.value.exit_code == 2


def test_a_password_in_a_refused_url_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUORATE_STATE", "redis://:hunter2@host/zero")
    with pytest.raises(SettingsError) as caught:
        read()
    assert "hunter2" not in str(caught.value)


def test_a_secret_comes_from_the_file_that_the_environment_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "key").write_text("s3cret\n")
    monkeypatch.setenv("QUORATE_S3_SECRET_KEY_FILE", str(tmp_path / "key"))
    settings = read()
    assert settings.s3_secret_key.get_secret_value() == "s3cret"
    assert "s3cret" not in repr(settings)


@pytest.mark.parametrize("content", [None, b"\xff\xfe\xfa"])
def test_a_secret_file_that_cannot_be_read_is_named(
    content: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if content is not None:
        (tmp_path / "key").write_bytes(content)
    monkeypatch.setenv("QUORATE_REDIS_PASSWORD_FILE", str(tmp_path / "key"))
    with pytest.raises(SettingsError, match=r"QUORATE_REDIS_PASSWORD_FILE: cannot read .*key"):
        read()


def test_a_secret_file_without_an_end_is_read_no_further_than_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUORATE_S3_SECRET_KEY_FILE", "/dev/zero")
    limit = resource.getrlimit(resource.RLIMIT_AS)
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + 2**28, limit[1]))  # or else it would be the whole memory
    try:
        assert len(read().s3_secret_key.get_secret_value()) <= 65_536
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limit)


def test_the_redis_password_enters_urls_that_have_none() -> None:
    given = {"redis_password": "p/w", "bus": "unix:///run/v.sock?db=1"}
    assert Settings(state="redis://host:1/0", **given).state_url == "redis://:p%2Fw@host:1/0"  # type: ignore[arg-type]
    assert Settings(state="redis://:own@host:1/0", **given).state_url == "redis://:own@host:1/0"  # type: ignore[arg-type]
    assert "p/w" not in repr(Settings(state="redis://host:1/0", **given))  # type: ignore[arg-type]


def test_a_file_url_is_a_folder_relative_or_absolute() -> None:
    assert folder("file:a/b") == Path("a/b")
    assert folder("file:/a/b") == folder("file:///a/b") == Path("/a/b")


def test_the_default_runtime_imports_no_client_of_a_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ran: list[str] = []
    runtime = connect(read(), lambda stream, state: ran.append)
    assert isinstance(runtime.blobs, FileBlobs)
    assert runtime.bus.clock.now() == 0.0


def test_s3_without_credentials_says_which_variables_are_missing() -> None:
    with pytest.raises(SettingsError, match="QUORATE_S3_ACCESS_KEY"):
        connect(Settings(blobs="http://127.0.0.1:1/bucket"))


@pytest.mark.parametrize(
    ("value", "address"),
    [
        ("", None),
        ("9464", ("127.0.0.1", 9464)),
        ("0.0.0.0:9464", ("0.0.0.0", 9464)),
        ("[::1]:9464", ("::1", 9464)),
        ("host:1", ("host", 1)),
    ],
)
def test_a_port_alone_is_of_this_machine(value: str, address: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUORATE_METRICS", value)
    assert read().metrics_address == address

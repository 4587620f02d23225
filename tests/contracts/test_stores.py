"""One suite over every store: what the protocols of infra/ promise holds for files, for an S3 and for Redis alike."""

import json
import resource
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

import pytest
import urllib3
from pydantic import SecretStr

from infra import blobs as worker
from infra.blobs import BlobStore, FileBlobs, outlet, readable
from infra.clock import WallClock
from infra.runtime import connect_blobs
from infra.servers import S3, Redis
from infra.settings import Settings
from infra.state import FileState, StateStore
from infra.stream import START, FileStream, Stream
from schemas.base import digest
from schemas.errors import BlobCorrupt, BlobError, BlobExists, BlobMissing, GrantRefused, SettingsError, StoreError
from schemas.messages import BlobRef, Grant
from tests.stack.servers import allowed

BOTH = ["file", pytest.param("real", marks=pytest.mark.stack)]


def s3_settings(server: S3, **changes: str) -> Settings:
    given = {"blobs": server.url, "s3_access_key": server.access_key, "s3_secret_key": server.secret_key}
    return Settings.model_validate(given | changes)


@pytest.fixture(params=BOTH)
def blobs(request: pytest.FixtureRequest, tmp_path: Path) -> BlobStore:
    if request.param == "file":
        return FileBlobs(tmp_path / "blobs")
    return connect_blobs(s3_settings(request.getfixturevalue("s3_server")))


@pytest.fixture(params=BOTH)
def state(request: pytest.FixtureRequest, tmp_path: Path, run: str) -> Iterator[StateStore]:
    from infra.redis_state import RedisState

    on_redis = request.param == "real"
    found = RedisState(request.getfixturevalue("redis_server").url) if on_redis else FileState(tmp_path / "state")
    yield found
    found.release(run, "a")
    found.release(run, "b")


@pytest.fixture(params=BOTH)
def stream(request: pytest.FixtureRequest, tmp_path: Path) -> Stream:
    if request.param == "file":
        return FileStream(tmp_path / "state", WallClock())
    from infra.redis_stream import RedisStream

    return RedisStream(request.getfixturevalue("redis_server").url, WallClock())


@pytest.fixture
def key() -> str:
    return f"runs/{uuid4().hex}/a b+c~é.bin"


@pytest.fixture
def run() -> str:
    return uuid4().hex


class TestBlobs:
    @pytest.mark.parametrize("data", [b"", b"x", bytes(range(256)) * 8192])
    def test_what_is_put_is_what_is_got(self, blobs: BlobStore, key: str, data: bytes) -> None:
        ref = blobs.put(key, data)
        assert ref == BlobRef(key=key, sha256=digest(data), size=len(data))
        assert blobs.get(ref) == data
        assert blobs.read(key, limit=len(data)) == data

    def test_the_last_put_counts(self, blobs: BlobStore, key: str) -> None:
        blobs.put(key, b"old")
        assert blobs.get(blobs.put(key, b"new")) == b"new"

    def test_a_key_is_written_once_if_absent(self, blobs: BlobStore, key: str) -> None:
        first = blobs.put(key, b"first", if_absent=True)
        with pytest.raises(BlobExists):
            blobs.put(key, b"second", if_absent=True)
        assert blobs.get(first) == b"first"

    def test_one_of_many_writers_wins(self, blobs: BlobStore, key: str) -> None:
        def write(i: int) -> bool:
            try:
                blobs.put(key, str(i).encode() * 1000, if_absent=True)
            except BlobExists:
                return False
            return True

        with ThreadPoolExecutor(8) as pool:
            won = list(pool.map(write, range(8)))
        assert sum(won) == 1
        assert blobs.read(key, limit=10_000) == str(won.index(True)).encode() * 1000

    def test_an_absent_key_is_missing(self, blobs: BlobStore, key: str) -> None:
        with pytest.raises(BlobMissing):
            blobs.get(BlobRef(key=key, sha256=digest(b""), size=0))
        with pytest.raises(BlobMissing):
            blobs.read(key, limit=1)

    def test_bytes_that_are_not_the_promised_ones_are_corrupt(self, blobs: BlobStore, key: str) -> None:
        ref = blobs.put(key, b"whole")
        for wrong in (BlobRef(key=key, sha256=digest(b"other"), size=5), ref.model_copy(update={"size": 6})):
            with pytest.raises(BlobCorrupt):
                blobs.get(wrong)

    def test_more_bytes_than_the_limit_are_not_read(self, blobs: BlobStore, key: str) -> None:
        ref = blobs.put(key, b"x" * 1_000_000)
        with pytest.raises(BlobCorrupt, match="larger than 999999 bytes"):
            blobs.read(key, limit=999_999)
        with pytest.raises(BlobCorrupt):
            blobs.get(ref.model_copy(update={"size": 4}))
        assert blobs.get(ref) == b"x" * 1_000_000  # the connection is still of use

    @pytest.mark.parametrize("wrong", ["../escape", "a/../../escape", "a\0b", "x" * 5000])
    def test_a_wrong_key_is_refused(self, blobs: BlobStore, wrong: str) -> None:
        with pytest.raises(BlobError):
            blobs.put(wrong, b"data")
        with pytest.raises(BlobError):
            blobs.read(wrong, limit=10)

    def test_keys_are_listed_by_prefix_and_sorted(self, blobs: BlobStore, run: str) -> None:
        names = [f"{run}/versions/{n}.json" for n in range(12)] + [f"{run}/versions.txt", f"{run}/versions/1/x"]
        for name in names:
            blobs.put(name, b"")
        assert list(blobs.keys(f"{run}/")) == sorted(names)
        assert list(blobs.keys(f"{run}/versions/1")) == sorted(n for n in names if n.startswith(f"{run}/versions/1"))
        assert list(blobs.keys(f"{run}/none/")) == []

    def test_a_deleted_key_is_free_again(self, blobs: BlobStore, key: str) -> None:
        blobs.put(key, b"data", if_absent=True)
        blobs.delete(key)
        blobs.delete(key)
        others = [f"{key}-{i}" for i in range(3)]
        for other in others:
            blobs.put(other, b"x")
        blobs.delete(key, *others[:2], f"{key}-absent")
        assert list(blobs.keys(f"{key}-")) == others[2:]
        blobs.delete(*others)
        assert list(blobs.keys(key)) == []
        blobs.put(key, b"data", if_absent=True)

    def test_a_worker_reads_and_writes_through_grants(self, blobs: BlobStore, key: str) -> None:
        target = outlet(blobs, key, 60)
        ref = worker.put(target, b"update")
        assert worker.fetch(target.get, limit=6) == b"update"
        assert worker.get(readable(blobs, ref, 60)) == b"update"
        with pytest.raises(BlobExists):
            worker.put(target, b"again")
        with pytest.raises(BlobCorrupt):
            worker.fetch(target.get, limit=5)

    def test_a_grant_is_shown_nowhere(self, blobs: BlobStore, key: str) -> None:
        target = outlet(blobs, key, 60)
        for grant in (target.put, target.get):
            url = grant.url.get_secret_value()
            assert url not in repr(grant) + str(grant) + repr(target) + str(grant.model_dump())
            assert url in target.model_dump_json()  # but the worker gets it

    def test_a_grant_to_read_an_absent_key_says_missing(self, blobs: BlobStore, key: str) -> None:
        with pytest.raises(BlobMissing):
            worker.fetch(outlet(blobs, key, 60).get, limit=1)


@pytest.mark.stack
class TestS3Grants:
    @pytest.fixture
    def s3(self, s3_server: S3) -> BlobStore:
        return connect_blobs(s3_settings(s3_server))

    def test_the_store_refuses_a_write_that_leaves_the_signed_header_out(self, s3: BlobStore, key: str) -> None:
        grant = outlet(s3, key, 60).put
        url = grant.url.get_secret_value()
        without = urllib3.request("PUT", url, body=b"x").status
        first = urllib3.request("PUT", url, body=b"x", headers=grant.headers).status
        second = urllib3.request("PUT", url, body=b"y", headers=grant.headers).status
        overwrite = urllib3.request("PUT", url, body=b"y").status
        assert (without, first, second, overwrite) == (403, 200, 412, 403)

    def test_a_grant_is_for_one_key_one_method_and_one_time(self, s3: BlobStore, key: str) -> None:
        target = outlet(s3, key, 60)
        worker.put(target, b"data")
        other = target.get.url.get_secret_value().replace(".bin", ".txt")
        for wrong in (other, target.put.url.get_secret_value(), s3.grant(key, "GET", 1).url.get_secret_value()):
            url = wrong.replace("X-Amz-Expires=1&", "X-Amz-Expires=2&")  # a forged lifetime breaks the signature
            with pytest.raises(GrantRefused):
                worker.fetch(Grant(url=SecretStr(url), method="GET", expires=0), limit=10)

    def test_an_expired_grant_is_refused(self, s3: BlobStore, key: str) -> None:
        s3.put(key, b"data")
        grant = s3.grant(key, "GET", 1)
        until = time.monotonic() + 10
        with pytest.raises(GrantRefused):
            while time.monotonic() < until:
                worker.fetch(grant, limit=10)

    def test_grants_name_the_endpoint_that_workers_see(self, s3_server: S3, key: str) -> None:
        public = connect_blobs(s3_settings(s3_server, s3_public="https://s3.example.org:443"))
        assert public.grant(key, "GET", 60).url.get_secret_value().startswith("https://s3.example.org/quorate/runs/")

    def test_wrong_credentials_are_one_line(self, s3_server: S3) -> None:
        with pytest.raises(SettingsError, match="check QUORATE_S3_ACCESS_KEY") as caught:
            connect_blobs(s3_settings(s3_server, s3_secret_key="wrong"))
        assert "wrong" not in str(caught.value) and "\n" not in str(caught.value)

    def test_a_bucket_name_that_no_store_accepts_is_one_line(self, s3_server: S3) -> None:
        with pytest.raises(SettingsError, match="bucket"):
            connect_blobs(s3_settings(s3_server, blobs=s3_server.url.replace("quorate", "A_B")))

    def test_a_new_bucket_is_made(self, s3_server: S3) -> None:
        made = connect_blobs(s3_settings(s3_server, blobs=s3_server.url + uuid4().hex[:8]))
        assert list(made.keys("")) == []

    def test_nobody_there_is_one_line(self) -> None:
        nowhere = Settings(blobs="http://127.0.0.1:1/quorate", s3_access_key="a", s3_secret_key=SecretStr("b" * 8))
        with pytest.raises(BlobError, match="not reachable"):
            connect_blobs(nowhere)


class TestState:
    def test_one_owner_at_a_time(self, state: StateStore, run: str) -> None:
        assert state.acquire(run, "a", 60)
        assert state.acquire(run, "a", 60)
        assert state.save(run, "a", 60) == "mine"

    def test_a_value_is_kept_until_the_next_one(self, state: StateStore, run: str) -> None:
        state.acquire(run, "a", 60)
        assert state.load(run) is None
        assert state.save(run, "a", 60, '{"version": 1, "é": ""}') == "mine"
        assert state.save(run, "a", 60) == "mine"
        assert state.load(run) == '{"version": 1, "é": ""}'
        assert state.save(run, "a", 60, "") == "mine"
        assert state.load(run) == ""

    def test_a_megabyte_is_a_value_too(self, state: StateStore, run: str) -> None:
        state.acquire(run, "a", 60)
        state.save(run, "a", 60, "x" * 1_000_000)
        assert state.load(run) == "x" * 1_000_000

    def test_a_released_run_is_free(self, state: StateStore, run: str) -> None:
        state.acquire(run, "a", 60)
        state.release(run, "a")
        state.release(run, "a")
        assert state.acquire(run, "b", 60)

    def test_who_looks_learns_the_owner_and_takes_nothing_from_it(self, state: StateStore, run: str) -> None:
        assert state.owner(run) is None
        state.acquire(run, "host-7-ab", 60)
        for _ in range(2):
            owner = state.owner(run)
            assert owner is not None and owner[0] == "host-7-ab"
            assert owner[1] is None or 50 < owner[1] <= 60
            assert state.save(run, "host-7-ab", 60) == "mine"
        state.release(run, "host-7-ab")
        assert state.owner(run) is None

    def test_flags_stay_until_forgotten(self, state: StateStore, run: str) -> None:
        assert not state.flagged(run, "cancel")
        state.flag(run, "cancel")
        assert state.flagged(run, "cancel") and not state.flagged(run, "other")
        state.acquire(run, "a", 60)
        state.save(run, "a", 60, "value")
        state.forget(run)
        assert not state.flagged(run, "cancel") and state.load(run) is None

    @pytest.mark.parametrize("more", [".flag.x", ".json", ".lock", "x"])
    def test_forgetting_a_run_leaves_one_of_a_longer_name_alone(self, state: StateStore, run: str, more: str) -> None:
        other = run + more
        state.acquire(other, "a", 60)
        state.save(other, "a", 60, "value")
        state.flag(other, "cancel")
        state.flag(run, "cancel")
        state.forget(run)
        assert not state.flagged(run, "cancel")
        assert state.flagged(other, "cancel") and state.load(other) == "value"
        state.release(other, "a")

    def test_nobody_works_on_nothing(self, state: StateStore, run: str) -> None:
        assert state.beating(run, []) == set()
        assert state.beating(run, ["v1.a.1"]) == set()


def test_a_flag_in_files_is_never_a_file_of_another_run(tmp_path: Path) -> None:
    state, stream = FileState(tmp_path), FileStream(tmp_path, WallClock())
    for name in ("a", "a.flag", "a.flag.cancel"):
        state.acquire(name, "me", 60)
        state.save(name, "me", 60, name)
        stream.append(name, "decision", "{}")
        state.flag(name, "cancel")
    before = {p.name for p in tmp_path.iterdir()}
    state.forget("a")
    assert before - {p.name for p in tmp_path.iterdir()} == {"a.json", "a@cancel"}
    for name in ("a", "a.flag", "a.flag.cancel"):
        state.release(name, "me")


@pytest.mark.stack
class TestRedisState:
    @pytest.fixture
    def redis(self, redis_server: Redis) -> StateStore:
        from infra.redis_state import RedisState

        return RedisState(redis_server.url)

    def test_another_owner_is_told_apart_from_nobody(self, redis: StateStore, run: str) -> None:
        assert redis.save(run, "a", 60, "lost") == "missing"
        assert redis.acquire(run, "a", 60)
        assert not redis.acquire(run, "b", 60)
        assert redis.save(run, "b", 60, "stolen") == "taken"
        redis.release(run, "b")
        assert redis.save(run, "a", 60) == "mine"
        assert redis.load(run) is None

    def test_a_lease_ends_by_itself_and_saving_extends_it(self, redis: StateStore, run: str) -> None:
        redis.acquire(run, "a", 20)
        redis.save(run, "a", 60)
        owner = redis.owner(run)
        assert owner is not None and owner[0] == "a" and 20 < (owner[1] or 0) <= 60
        redis.save(run, "a", 0.05)
        assert eventually(lambda: redis.acquire(run, "b", 1))

    def test_a_lease_that_a_clock_left_for_hours_ends_like_any_other(
        self, redis: StateStore, run: str, redis_server: Redis
    ) -> None:
        from infra.redis_state import client, key

        redis.acquire(run, "a", 5)
        client(redis_server.url).pexpire(key(run, "lease"), 3_600_000)  # the server's clock went back by an hour
        assert not redis.acquire(run, "b", 0.05)
        assert eventually(lambda: redis.acquire(run, "b", 0.05))

    def test_work_is_believed_for_as_long_as_it_says(self, redis: StateStore, run: str) -> None:
        redis.beat(run, "v1.a.1", 60)
        redis.beat(run, "v1.b.1", 0.05)
        assert redis.beating(run, ["v1.c.1", "v1.a.1"]) == {"v1.a.1"}
        assert eventually(lambda: redis.beating(run, ["v1.b.1"]) == set())
        assert redis.beating("another-run", ["v1.a.1"]) == set()

    def test_an_empty_server_answers_missing(self, redis: StateStore, run: str, redis_server: Redis) -> None:
        from infra.redis_state import client, key

        redis.acquire(run, "a", 60)
        client(redis_server.url).delete(key(run, "lease"))
        assert redis.save(run, "a", 60) == "missing"

    def test_nobody_there_is_a_store_error(self, tmp_path: Path) -> None:
        from infra.redis_state import RedisState

        with pytest.raises(StoreError, match="QUORATE_STATE"):
            RedisState(f"unix://{tmp_path}/none.sock")


class TestStream:
    def test_entries_come_back_in_order_behind_the_cursor(self, stream: Stream, run: str) -> None:
        written = [stream.append(run, "manifest", json.dumps({"n": n})) for n in range(5)]
        now = stream_clock(stream)
        read = stream.read(run, START, now)
        assert [(e.id, e.author, e.body) for e in read] == [(e.id, "manifest", e.body) for e in written]
        assert [e.id for e in stream.read(run, written[2].id, now)] == [written[3].id, written[4].id]

    def test_nothing_new_is_an_empty_list(self, stream: Stream, run: str) -> None:
        assert stream.read(run, START, stream_clock(stream)) == []
        last = stream.append(run, "decision", "{}")
        assert stream.read(run, last.id, stream_clock(stream) + 0.05) == []

    def test_entries_bear_the_time_of_their_arrival(self, stream: Stream, run: str) -> None:
        before = stream_clock(stream)
        written = stream.append(run, "failure", "{}")
        (read,) = stream.read(run, START, before)
        assert before <= written.at <= stream_clock(stream)
        assert before - 0.1 <= read.at <= stream_clock(stream)

    @pytest.mark.parametrize("body", ["", "not json", "é\u2028\n", "x" * 2_000_000])
    def test_a_body_is_carried_whatever_it_is(self, stream: Stream, run: str, body: str) -> None:
        stream.append(run, "manifest", body)
        assert [e.body for e in stream.read(run, START, stream_clock(stream))] == [body]

    def test_what_is_trimmed_is_gone_and_ids_go_on_growing(self, stream: Stream, run: str) -> None:
        written = [stream.append(run, "manifest", str(n)) for n in range(4)]
        stream.trim(run, written[1].id)
        now = stream_clock(stream)
        assert [e.body for e in stream.read(run, START, now)] == ["2", "3"]
        stream.trim(run, written[3].id)
        later = stream.append(run, "manifest", "later")
        assert [e.id for e in stream.read(run, written[3].id, now)] == [later.id]

    def test_trimming_to_the_start_forgets_nothing(self, stream: Stream, run: str) -> None:
        stream.append(run, "manifest", "kept")
        stream.trim(run, START)
        assert [e.body for e in stream.read(run, START, stream_clock(stream))] == ["kept"]

    def test_runs_are_apart_and_a_deleted_one_is_empty(self, stream: Stream, run: str) -> None:
        stream.append(run, "manifest", "mine")
        stream.append(f"{run}x", "manifest", "other")
        stream.delete(run)
        stream.delete(run)
        now = stream_clock(stream)
        assert stream.read(run, START, now) == []
        assert [e.body for e in stream.read(f"{run}x", START, now)] == ["other"]


def _life(server: Redis, hours: float) -> Stream:
    """A stream as a loop reads it whose machine's clock is so many hours ahead."""
    from infra.redis_stream import RedisStream

    clock = WallClock()
    clock._offset += 3600 * hours
    return RedisStream(server.url, clock)


@pytest.mark.stack
class TestRedisStream:
    @pytest.fixture
    def redis(self, redis_server: Redis) -> Stream:
        from infra.redis_stream import RedisStream

        return RedisStream(redis_server.url, WallClock())

    def test_a_read_wakes_up_at_the_first_entry(self, redis: Stream, run: str, redis_server: Redis) -> None:
        from infra.redis_stream import RedisStream

        other = RedisStream(redis_server.url, WallClock())
        with ThreadPoolExecutor(1) as pool:
            began = time.monotonic()
            waiting = pool.submit(lambda: redis.read(run, START, stream_clock(redis) + 30))
            other.append(run, "manifest", "now")
            entries = waiting.result(10)
        assert [e.body for e in entries] == ["now"] and time.monotonic() - began < allowed(0.9)

    def test_a_read_comes_back_soon_enough_to_renew_a_lease_of_five_seconds(self, redis: Stream, run: str) -> None:
        began = time.monotonic()
        assert redis.read(run, START, stream_clock(redis) + 30) == []
        assert time.monotonic() - began < allowed(5 / 3)

    def test_a_long_log_comes_in_pieces(self, redis: Stream, run: str) -> None:
        for n in range(300):
            redis.append(run, "manifest", str(n))
        seen, cursor = 0, START
        while entries := redis.read(run, cursor, 0.0):
            seen, cursor = seen + len(entries), entries[-1].id
        assert seen == 300

    def test_a_foreign_entry_is_carried_and_does_not_break_the_reader(
        self, redis: Stream, run: str, redis_server: Redis
    ) -> None:
        from infra.redis_state import client, key

        client(redis_server.url).xadd(key(run, "stream"), {b"author": b"manifest", b"rubbish": b"\xff\xfe"})
        redis.append(run, "manifest", "good")
        assert [e.body for e in redis.read(run, START, 0.0)] == ["", "good"]

    def test_a_decision_bears_its_moment_in_every_life(self, redis: Stream, run: str, redis_server: Redis) -> None:
        made = redis.append(run, "decision", "{}")
        (read,) = _life(redis_server, hours=-1).read(run, START, 0.0)
        assert read.at == made.at

    @pytest.mark.parametrize("at", ["", "nan", "inf", "x", "1e18"])
    def test_a_moment_that_no_loop_has_written_is_not_believed(
        self, redis: Stream, run: str, redis_server: Redis, at: str
    ) -> None:
        from infra.redis_state import client, key

        client(redis_server.url).xadd(key(run, "stream"), {"author": "decision", "body": "{}", "at": at})
        (read,) = redis.read(run, START, 0.0)
        assert abs(read.at - stream_clock(redis)) < 60

    @pytest.mark.parametrize("hours", [-1.0, 0.0, 1.0])
    def test_what_came_one_after_the_other_is_read_so_whatever_the_clocks_say(
        self, run: str, redis_server: Redis, hours: float
    ) -> None:
        # One life appends and dies; the next one's clock is an hour off, and the server's is neither's.
        first = _life(redis_server, hours=0.0)
        begun = stream_clock(first)
        for n in range(4):
            first.append(run, "manifest" if n % 2 else "decision", str(n))
        later = _life(redis_server, hours=hours)
        later.clock.catch_up(stream_clock(first))  # type: ignore[attr-defined]
        entries = later.read(run, START, 0.0)
        assert [e.at for e in entries] == sorted(e.at for e in entries)
        assert begun <= entries[0].at and entries[-1].at <= stream_clock(first)

    def test_a_stray_report_makes_no_stream_that_stays(self, redis: Stream, run: str, redis_server: Redis) -> None:
        from infra.redis_state import client, key

        server = client(redis_server.url)
        redis.append(run, "manifest", "stray")
        assert 0 < int(server.ttl(key(run, "stream"))) <= 3600
        redis.append(run, "decision", "{}")
        redis.append(run, "manifest", "of a run that goes on")
        assert int(server.ttl(key(run, "stream"))) == -1

    def test_a_key_of_another_type_is_a_store_error(self, redis: Stream, run: str, redis_server: Redis) -> None:
        from infra.redis_state import client, key

        client(redis_server.url).set(key(run, "stream"), "text")
        with pytest.raises(StoreError):
            redis.read(run, START, 0.0)


class TestFileStream:
    def test_a_line_that_finds_no_room_is_taken_back(self, tmp_path: Path, run: str) -> None:
        stream = FileStream(tmp_path, WallClock())
        first = stream.append(run, "manifest", "first")
        size = (tmp_path / f"{run}.stream").stat().st_size
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 10, hard))  # as on a full disk: 10 bytes go, the rest not
        try:
            with pytest.raises(StoreError, match=f"stream of {run}: 10 of"):
                stream.append(run, "manifest", "lost")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert (tmp_path / f"{run}.stream").stat().st_size == size
        next_one = stream.append(run, "manifest", "next")
        now = stream_clock(stream)
        for life in (stream, FileStream(tmp_path, WallClock())):
            assert [(e.id, e.body) for e in life.read(run, START, now)] == [(first.id, "first"), (next_one.id, "next")]

    @pytest.mark.parametrize(
        "line", [b"", b"[]", b"\xff", b'{"id": "1"', b'{"id": "x", "at": 0, "author": "", "body": ""}', b"[" * 100_000]
    )
    def test_a_damaged_line_names_the_file_and_stays(self, tmp_path: Path, run: str, line: bytes) -> None:
        FileStream(tmp_path, WallClock()).append(run, "manifest", "whole")
        path = tmp_path / f"{run}.stream"
        damaged = path.read_bytes() + line + b"\n"
        path.write_bytes(damaged)
        stream = FileStream(tmp_path, WallClock())
        for _ in range(2):
            with pytest.raises(StoreError, match=f"{path}: line 2 is damaged"):
                stream.read(run, START, 0.0)
        assert path.read_bytes() == damaged

    def test_a_torn_last_line_is_dropped(self, tmp_path: Path, run: str) -> None:
        FileStream(tmp_path, WallClock()).append(run, "manifest", "whole")
        with (tmp_path / f"{run}.stream").open("ab") as f:
            f.write(b'{"id": "2", "at": 1.0, "auth')
        again = FileStream(tmp_path, WallClock())
        assert [e.body for e in again.read(run, START, 0.0)] == ["whole"]
        assert again.append(run, "manifest", "next").id == "2"


def stream_clock(stream: Stream) -> float:
    return stream.clock.now()  # type: ignore[attr-defined, no-any-return]


def eventually(fact: Callable[[], bool], within_s: float = 5.0) -> bool:
    until = time.monotonic() + within_s
    while not fact():
        if time.monotonic() > until:
            return False
        time.sleep(0.01)
    return True

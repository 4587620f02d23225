"""YAML from a person, a broken editor or an enemy: read, or refused in one line, soon and in little memory."""

import os
import time
import tracemalloc
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from infra.documents import DEEPEST, LARGEST, MOST, read_mapping, read_value
from schemas.errors import ConfigError

SLOW = (HealthCheck.too_slow, HealthCheck.function_scoped_fixture)
"""A busy machine is no fault of the code."""

TEXT = st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"], exclude_characters="\ufeff"), max_size=8)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)


def _refusal(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        read_value(text, "here")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400
    return str(caught.value)


def test_plain_values_are_read_as_yaml_says(tmp_path: Path) -> None:
    text = "a: 1\nb: [x, 2.5, true, null, '3']\nc: {d: {e: ''}}\nf: &g 'anchors alone point nowhere'\n"
    (tmp_path / "x.yaml").write_text(text)
    assert read_mapping(tmp_path / "x.yaml") == {
        "a": 1, "b": ["x", 2.5, True, None, "3"], "c": {"d": {"e": ""}}, "f": "anchors alone point nowhere",
    }  # fmt: skip


@settings(deadline=None, suppress_health_check=SLOW, max_examples=100)
@given(VALUES)
def test_whatever_can_be_written_plainly_is_read_back(value: object) -> None:
    assert read_value(yaml.safe_dump(value, allow_unicode=True), "here") == value


@settings(deadline=None, suppress_health_check=SLOW, max_examples=500)
@given(st.binary(max_size=60) | st.text("[]{}:,-?*&!|>'\"%@`#\\ \n\tab01.~<=", max_size=40).map(str.encode))
def test_whatever_the_bytes_are_a_file_is_a_mapping_or_one_line(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes(data)
    try:
        assert isinstance(read_mapping(path), dict)
    except ConfigError as e:
        assert "\n" not in str(e)


LAUGHS = "\n".join(
    ["a: &a [x, x, x, x, x, x, x, x, x]"]
    + [f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]" for a, b in zip("abcdefgh", "bcdefghi", strict=True)]
)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (LAUGHS, "points elsewhere"),
        ("a: &a [*a]", "points elsewhere"),
        ("a: {b: &b {c: 1}, d: {<<: *b}}", "points elsewhere"),
        ("[" * 100_000, f"more than {DEEPEST} levels"),
        ("{a: " * 100_000, f"more than {DEEPEST} levels"),
        ("\n".join(" " * i + "a:" for i in range(1000)), f"more than {DEEPEST} levels"),
        ("- " * 100_000, f"more than {DEEPEST} levels"),
        ("[" + "a," * 400_000 + "]", f"more than {MOST} values"),
        ("a: 1\nb: 2\na: 3\n", "key 'a' is there twice (line 3)"),
        ("'a': 1\na: 3\n", "key 'a' is there twice (line 2)"),
        ("{[a]: 1, [a]: 2}", "is not YAML"),
        ("!!python/object/apply:os.system ['true']", "is not read here"),
        ('!!int ""', "is not read here"),
        ("!!bool x", "is not read here"),
        ("!!timestamp x", "is not read here"),
        ("!!set [a]", "is not read here"),
        ("{!mine a: 1}", "is not read here"),
        ("1" * 5000, "a number of 5000 characters"),
        ("0x" + "f" * 5000, "a number of 5002 characters"),
        ("1" + ":1" * 400_000, "a number of 800001 characters"),
        ('a: "\\ud800"', "half of a surrogate pair"),
        ('"\\udfff": a', "half of a surrogate pair"),
        ("2001-13-45", "is not YAML"),
        ("a: \x1b[31m", "is not YAML"),
        ("x" * 1000 + ": [", "is not YAML"),
        ("a: b\n--- \na: c\n", "is not YAML"),
    ],
    ids=lambda text: text[:20],
)
def test_what_is_refused_is_refused_quickly(text: str, says: str) -> None:
    began = time.process_time()
    assert says in (told := _refusal(text)), told
    assert time.process_time() - began < 5, "without bounds some of these take hours"


def test_a_file_of_a_hundred_megabytes_is_refused_before_it_is_parsed(tmp_path: Path) -> None:
    path = tmp_path / "huge.yaml"
    with path.open("wb") as f:
        f.write(b"a: [")
        f.truncate(100_000_000)
    tracemalloc.start()
    with pytest.raises(ConfigError, match=f"larger than {LARGEST} bytes"):
        read_mapping(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 * LARGEST


def test_a_file_that_has_no_size_is_read_no_further_than_the_limit() -> None:
    with pytest.raises(ConfigError, match="larger than"):
        read_mapping(Path("/dev/zero"))


def test_a_pipe_is_read_if_somebody_writes_into_it_and_else_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.yaml")
    with pytest.raises(ConfigError, match="holds no settings"):
        read_mapping(tmp_path / "x.yaml")
    read, write = os.pipe()  # as a shell gives it: quorate check <(sed ... x.yaml)
    os.write(write, b"a: 1\n")
    os.close(write)
    assert read_mapping(Path(f"/dev/fd/{read}")) == {"a": 1}
    os.close(read)


@pytest.mark.parametrize(
    ("path", "says"),
    [("no.yaml", "No such file"), (".", "Is a directory"), ("loop", "symbolic links"), ("a\0b", "null")],
)
def test_what_is_no_file_is_named(tmp_path: Path, path: str, says: str) -> None:
    os.symlink("loop", tmp_path / "loop")
    with pytest.raises(ConfigError, match=f"cannot read .*{says}"):
        read_mapping(tmp_path / path)

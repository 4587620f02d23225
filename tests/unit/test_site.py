from pathlib import Path

import pytest

from schemas.errors import ConfigError, PluginError
from workers.site import read_site


def test_paths_count_from_the_file_and_private_state_lies_beside_it(tmp_path: Path) -> None:
    (tmp_path / "site.yaml").write_text("data: {name: folder, params: {root: images}}\n")
    site = read_site(tmp_path / "site.yaml")
    assert site.data.params["root"] == str(tmp_path / "images")
    assert site.private == tmp_path / "private"


def test_absolute_paths_stay(tmp_path: Path) -> None:
    (tmp_path / "site.yaml").write_text("data: {name: folder, params: {root: /images}}\nprivate: /private\n")
    site = read_site(tmp_path / "site.yaml")
    assert (site.data.params["root"], site.private) == ("/images", Path("/private"))


def test_a_plugin_that_the_site_does_not_list_is_not_loaded(tmp_path: Path) -> None:
    (tmp_path / "site.yaml").write_text("data: {name: 'tests.stack.plugins:Deadly'}\n")
    with pytest.raises(PluginError, match=r"list it under `plugins:`"):
        read_site(tmp_path / "site.yaml")
    (tmp_path / "site.yaml").write_text(
        "data: {name: 'tests.stack.plugins:Deadly'}\nplugins: ['tests.stack.plugins:Deadly']\n"
    )
    assert read_site(tmp_path / "site.yaml").plugins == ("tests.stack.plugins:Deadly",)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "holds no settings"),
        ("- a list", "holds no settings"),
        ("private: here", "says nothing of the data"),
        ("data:", "says nothing of the data"),
        ("data: folder", "data"),
        ("data: {name: folder, params: {root: images, rot: 1}}", "did you mean 'root'?"),
        ("data: {name: folder, params: {root: images}}\nplugin: []", "did you mean 'plugins'?"),
        ("data: {name: folder, params: {root: images}, partition: {name: by_domian}}", "did you mean 'by_domain'?"),
        ("data: {name: folder, params: {root: im", "is not YAML"),
        ("[" * 100_000, "more than 32 levels deep"),
        ("data: {name: folder, params: {root: a}}\nprivate: a\nprivate: b\n", "key 'private' is there twice"),
        ("data: {name: folder, parms: {root: a}}", "unknown key 'data.parms', did you mean 'params'?"),
        ("data: {name: folder, params: {root: ~no such user/a}}", "home"),
    ],
)
def test_a_mistake_is_one_line(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "site.yaml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_site(tmp_path / "site.yaml")
    assert said in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("module", "said"),
    [("raise RuntimeError('half made')", "RuntimeError: half made"), ("def", "SyntaxError"), ("", "no attribute")],
)
def test_a_listed_plugin_that_cannot_be_imported_is_one_line(
    module: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"odd_{abs(hash(module))}"
    (tmp_path / f"{name}.py").write_text(module)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "site.yaml").write_text(f"data: {{name: '{name}:Own'}}\nplugins: ['{name}:Own']\n")
    with pytest.raises(PluginError, match=f"cannot load '{name}:Own'") as caught:
        read_site(tmp_path / "site.yaml")
    assert said in str(caught.value)


def test_bytes_that_are_no_text_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "site.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="is not YAML"):
        read_site(tmp_path / "site.yaml")

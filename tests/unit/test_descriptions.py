"""Which descriptions of several sites fit together, as values."""

from typing import Any

from orchestrator.descriptions import sort_out
from schemas.messages import Description, Split


def _says(site: str, **changes: Any) -> Description:
    own = {"site": site, "clients": {site: Split(train=1)}, "classes": ("cat", "dog"), "fingerprint": "a" * 64}
    return Description.model_validate(own | changes)


def test_the_backbone_that_most_sites_hold_is_the_runs() -> None:
    answers: dict[str, Description | str] = {"x": _says("x", fingerprint="b" * 64), "y": _says("y"), "z": _says("z")}
    found = sort_out(answers, None)
    assert [d.site for d in found.fitting] == ["y", "z"]
    assert found.refused == {"x": "it holds another backbone than the run"}


def test_a_class_that_the_experiment_does_not_name_is_refused_and_any_is_taken_if_it_names_none() -> None:
    answers: dict[str, Description | str] = {"x": _says("x", classes=("cat", "cow")), "y": _says("y")}
    assert sort_out(answers, ("cat", "dog")).refused == {"x": "class 'cow' is none of the run's classes"}
    assert not sort_out(answers, None).refused


def test_a_site_names_its_own_clients_alone_and_the_pool_any() -> None:
    for clients in ({"y": Split(train=1)}, {"xy.a": Split(train=1)}, {"x.a": Split(train=1), "a": Split(train=1)}):
        assert "does not bear its name" in sort_out({"x": _says("x", clients=clients)}, None).refused["x"]
        pool = _says("x", clients=clients).model_copy(update={"site": None})
        assert not sort_out({"the pool": pool}, None).refused
    assert not sort_out({"x": _says("x", clients={"x": Split(train=1), "x.a": Split(train=1)})}, None).refused


def test_of_two_clients_of_one_name_the_first_stays() -> None:
    answers: dict[str, Description | str] = {
        "x": _says("x", clients={"x.y.a": Split(train=1)}),
        "x.y": _says("x.y", clients={"x.y.a": Split(train=1)}),
    }
    found = sort_out(answers, None)
    assert [d.site for d in found.fitting] == ["x"] and "x.y.a already" in found.refused["x.y"]


def test_one_name_for_a_client_and_for_a_held_out_owner_of_the_same_site_is_refused() -> None:
    twice = _says("x", clients={"x": Split(train=1)}, held_out={"x": Split(test=1)})
    assert "name x already" in sort_out({"x": twice}, None).refused["x"]

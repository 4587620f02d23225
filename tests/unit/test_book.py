"""The book of a run: who may be asked, when tasks expire, and a ledger in which every update has one fate."""

import math
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from orchestrator.book import Book
from schemas.decisions import Asked, Closed, Resent
from schemas.errors import AggregationError
from schemas.experiment import Rounds
from schemas.log import Commit, Held, Open, Round, Share
from schemas.messages import ALL, BlobRef, ClientResult, Description, Manifest, Split

SLOW = (HealthCheck.too_slow,)
"""A busy machine is no fault of the code."""

CLIENTS = ("ann", "bob", "cem", "dua", "eve")
BLOB = BlobRef(key="some/blob", sha256="0" * 64, size=1)


def _spec(**changes: Any) -> Rounds:
    numbers = {"in_flight": 4, "quorum": 3, "floor": 2, "grace_s": 2.0, "deadline_s": 10.0, "max_staleness": 2}
    return Rounds(**{**numbers, **changes})


def _train(book: Book, *clients: str, at: float = 0.0) -> Open:
    return Open(
        task_id=f"v{book.version}-{clients[0]}-{book.seq}",
        kind="train",
        base=book.version,
        clients=clients,
        asked_at=at,
    )


def _ask(book: Book, *clients: str, at: float = 0.0) -> list[Open]:
    """One task per client, all in one decision."""
    tasks = []
    for i, client in enumerate(clients):
        task = _train(book, client, at=at)
        tasks.append(task.model_copy(update={"task_id": f"v{book.version}-{client}-{book.seq + i}"}))
    book.asks(Asked(version=book.version, tasks=tuple(tasks)), at, instant=False)
    return tasks


def _result(client: str, **changes: Any) -> ClientResult:
    return ClientResult(client=client, update=BLOB, weight=2.0, **changes)


def _accept(book: Book, task: Open, at: float = 1.0) -> None:
    book.answered(task)
    for client in task.clients:
        book.accepts(task, _result(client), at)


def _close(book: Book, at: float = 5.0) -> None:
    counted = tuple((a.task_id, a.client) for a in book.accepted.values())
    book.closes(Closed(version=book.version, counted=counted, without=book.without()))
    book.opens(book.version + 1, at)
    for task in book.stale():
        book.expires_now(task.task_id)


# --- who may be asked


def test_every_client_is_free_at_first_in_the_order_of_names() -> None:
    assert Book(_spec()).free(["eve", "ann", "bob"]) == ["ann", "bob", "eve"]


def test_a_client_with_an_open_task_is_not_free() -> None:
    book = Book(_spec())
    _ask(book, "ann")
    assert book.free(CLIENTS) == ["bob", "cem", "dua", "eve"]


def test_a_client_that_has_answered_is_not_asked_again_for_the_same_version() -> None:
    book = Book(_spec())
    (task,) = _ask(book, "ann")
    _accept(book, task)
    book.retries_now(3.0)
    assert "ann" not in book.free(CLIENTS)
    _close(book)
    assert "ann" in book.free(CLIENTS)


def test_a_client_whose_update_was_refused_is_asked_again_only_after_a_retry() -> None:
    book = Book(_spec())
    (task,) = _ask(book, "ann")
    book.answered(task)
    book.rejects("ann")
    assert "ann" not in book.free(CLIENTS)
    book.retries_now(3.0)
    assert "ann" in book.free(CLIENTS)


def test_a_client_may_not_be_asked_while_its_task_of_an_earlier_version_is_open() -> None:
    book = Book(_spec(refill="at_arrival"))
    (slow, quick) = _ask(book, "ann", "bob")
    _accept(book, quick)
    _close(book)
    assert slow.task_id in book.open
    assert book.free(["ann", "bob"]) == ["bob"]


# --- how many may be asked


def test_the_budget_is_what_in_flight_leaves() -> None:
    book = Book(_spec(in_flight=4))
    assert book.budget() == 4
    book = Book(_spec(in_flight=4, refill="at_arrival"))
    tasks = _ask(book, "ann", "bob", "cem")
    assert book.budget() == 4 - 3
    _accept(book, tasks[0])
    assert book.budget() == 4 - 2


def test_at_close_one_batch_is_asked_and_one_more_after_each_retry() -> None:
    book = Book(_spec(in_flight=4))
    (task, *_) = _ask(book, "ann", "bob")
    _accept(book, task)
    assert book.budget() == 0
    book.retries_now(12.0)
    assert book.budget() == 4 - 1  # bob is still out
    _ask(book, "cem")
    assert book.budget() == 0


def test_a_task_of_several_clients_takes_their_number_from_the_budget() -> None:
    book = Book(_spec(in_flight=4, refill="at_arrival"))
    book.asks(Asked(version=0, tasks=(_train(book, "ann", "bob", "cem"),)), 0.0, instant=False)
    assert book.budget() == 4 - 3
    assert book.progress().in_flight == 3
    assert book.progress().asked == 3


def test_an_evaluation_takes_nothing_from_the_budget_and_is_no_batch() -> None:
    book = Book(_spec())
    task = Open(task_id="v0-evaluate-pool", kind="evaluate", base=0, clients=CLIENTS, asked_at=0.0)
    book.asks(Asked(version=0, tasks=(task,)), 0.0, instant=False)
    assert (book.budget(), book.progress().asked, book.progress().in_flight, book.ledger) == (4, 0, 0, {})
    assert book.free(CLIENTS) == list(CLIENTS)


# --- when tasks expire


def test_a_task_that_nobody_has_started_lives_as_long_as_its_grants() -> None:
    book = Book(_spec(deadline_s=10, max_staleness=2, grace_s=2))
    (task,) = _ask(book, "ann", at=100.0)
    assert book.expires(task) == 100 + 10 * (1 + 2) + 2


def test_the_deadline_counts_from_the_start_of_the_work() -> None:
    book = Book(_spec(deadline_s=10))
    (task,) = _ask(book, "ann", at=100.0)
    book.starts(task.task_id, 107.0)
    assert book.expires(book.open[task.task_id]) == 107 + 10
    assert book.progress().next_expiry == 117


def test_in_one_process_work_starts_when_it_is_asked() -> None:
    book = Book(_spec(deadline_s=10))
    book.asks(Asked(version=0, tasks=(_train(book, "ann", at=3.0),)), 4.0, instant=True)
    assert book.progress().next_expiry == 4 + 10


def test_a_new_attempt_waits_to_be_started_again() -> None:
    book = Book(_spec())
    (task,) = _ask(book, "ann", at=0.0)
    book.starts(task.task_id, 1.0)
    book.sends([task.task_id])
    book.resends(Resent(version=0, task_id=task.task_id, attempt=2, reason="worker gone"), 2.0)
    again = book.open[task.task_id]
    assert (again.attempt, again.started_at, again.sent, again.asked_at) == (2, None, False, 0.0)
    assert book.ledger["ann"] == Share(asked=1)  # an attempt is no new asking


def test_an_expired_task_frees_its_slot_and_is_lost_until_it_comes() -> None:
    book = Book(_spec(refill="at_arrival"))
    (task,) = _ask(book, "ann")
    assert book.expires_now(task.task_id) is not None
    assert book.budget() == 4
    assert book.ledger["ann"] == Share(asked=1, lost=1)
    _accept(book, task)
    assert book.ledger["ann"] == Share(asked=1, accepted=1)


def test_a_task_expires_once() -> None:
    book = Book(_spec())
    (task,) = _ask(book, "ann")
    book.expires_now(task.task_id)
    assert book.expires_now(task.task_id) is None
    assert book.ledger["ann"].lost == 1


def test_an_expired_task_is_forgotten_when_its_answer_could_no_longer_count() -> None:
    book = Book(_spec(max_staleness=1))
    (task,) = _ask(book, "ann")
    book.expires_now(task.task_id)
    found = []
    for _ in range(3):
        found.append(book.find(_manifest(task)) is not None)
        _close(book)
    assert found == [True, True, False]  # lag 0, 1 and 2
    assert book.ledger["ann"] == Share(asked=1, lost=1)


def test_an_open_task_is_stale_when_its_answer_could_no_longer_count() -> None:
    book = Book(_spec(max_staleness=1))
    (task,) = _ask(book, "ann")
    book.opens(1, 5.0)
    assert (book.lag(task), book.stale(), book.progress().in_flight) == (1, [], 1)
    book.opens(2, 6.0)
    assert (book.lag(task), book.stale(), book.progress().in_flight) == (2, [task], 0)


# --- arrivals


def _manifest(task: Open) -> Manifest:
    return Manifest(run="r", task_id=task.task_id, attempt=1, worker="w", seconds=0.1)


def test_an_answered_task_is_found_no_more() -> None:
    book = Book(_spec())
    (task,) = _ask(book, "ann")
    assert book.find(_manifest(task)) == task
    _accept(book, task)
    assert book.find(_manifest(task)) is None
    assert book.finished == {task.task_id: 0}


def test_an_update_counts_in_the_round_it_was_asked_in_or_late() -> None:
    book = Book(_spec())
    early, late = _ask(book, "ann", "bob")
    _accept(book, early)
    _close(book)
    _accept(book, late)
    assert book.ledger == {"ann": Share(asked=1, accepted=1), "bob": Share(asked=1, late=1)}
    assert [a.client for a in book.accepted.values()] == ["bob"]


def test_private_state_advances_with_acceptance_only() -> None:
    book = Book(_spec())
    first, second = _ask(book, "ann", "bob")
    book.answered(first)
    book.accepts(first, _result("ann", private=BLOB), 1.0)
    book.answered(second)
    book.rejects("bob")
    assert book.private == {"ann": BLOB}


def test_an_update_without_private_state_leaves_the_old_one() -> None:
    book = Book(_spec(), private={"ann": BLOB})
    (task,) = _ask(book, "ann")
    _accept(book, task)
    assert book.private == {"ann": BLOB}


def test_closing_gives_the_counted_updates_in_the_order_of_clients_and_keeps_the_rest() -> None:
    book = Book(_spec())
    tasks = _ask(book, "cem", "ann", "bob")
    for at, task in enumerate(tasks):
        _accept(book, task, at=float(at))
    counted = book.closes(Closed(version=0, counted=((tasks[0].task_id, "cem"), (tasks[1].task_id, "ann")), without=()))
    assert [a.client for a in counted] == ["ann", "cem"]
    assert [a.client for a in book.accepted.values()] == ["bob"]


def test_a_version_is_closed_without_those_asked_in_it_who_have_not_answered() -> None:
    book = Book(_spec())
    _, old = _ask(book, "ann", "bob")
    _close(book)
    answered, lost, _ = _ask(book, "cem", "dua", "eve")
    _accept(book, answered)
    book.expires_now(lost.task_id)
    assert book.without() == ("dua", "eve")  # bob was asked in the round before
    assert old.task_id in book.open


def test_weights_and_lags_add_up() -> None:
    book = Book(_spec())
    _ask(book, "ann", "bob")
    book.weighs({"ann": 3.0, "bob": 1.5}, {0: 1, 2: 1})
    book.weighs({"ann": 2.0}, {0: 1})
    assert (book.ledger["ann"].weight, book.ledger["bob"].weight) == (5.0, 1.5)
    assert book.staleness == {0: 2, 2: 1}


# --- sending


def test_what_is_held_is_answered_and_what_was_sent_is_not_sent_again() -> None:
    book = Book(_spec())
    first, second, third = _ask(book, "ann", "bob", "cem")
    book.sends([first.task_id, "no such task"])
    book.held.append(Held(due=9.0, manifest=_manifest(second)))
    assert [o.task_id for o in book.unsent()] == [third.task_id]
    assert [o.task_id for o in book.unanswered()] == [first.task_id, third.task_id]
    book.forgets_sending()
    assert [o.task_id for o in book.unsent()] == [first.task_id, third.task_id]


def test_a_book_read_from_a_commit_is_the_book_that_was_dumped() -> None:
    book = Book(_spec(max_staleness=1))
    answered, lost, waiting, held = _ask(book, "ann", "bob", "cem", "dua")
    _accept(book, answered)
    book.expires_now(lost.task_id)
    book.starts(waiting.task_id, 2.0)
    book.held.append(Held(due=9.0, manifest=_manifest(held)))
    book.weighs({"ann": 2.0}, {0: 1})
    _close(book, at=7.0)
    commit = Commit(**book.dump(), run="r", at=7.0, setting=BLOB, descriptions=(), models={}, cursor="5", journal=BLOB)
    assert Book.of(book.spec, Commit.model_validate_json(commit.model_dump_json())) == book


# --- the ledger: whatever happens, asked = accepted + late + rejected + lost + open


class Life(RuleBasedStateMachine):
    """A run's book under any sequence of what a loop may do with it."""

    @initialize(refill=st.sampled_from(["at_close", "at_arrival"]), lag=st.integers(0, 3), retries=st.integers(0, 3))
    def begins(self, refill: str, lag: int, retries: int) -> None:
        self.book = Book(_spec(refill=refill, max_staleness=lag, retries=retries))
        self.asked: dict[str, Open] = {}

    @rule(data=st.data())
    def asks(self, data: st.DataObject) -> None:
        budget, free = self.book.budget(), self.book.free(CLIENTS)
        picked = data.draw(st.permutations(free)) if free else []
        self.asked |= {o.task_id: o for o in _ask(self.book, *picked[:budget])}

    @rule(data=st.data())
    def asks_several_in_one_task(self, data: st.DataObject) -> None:
        several = self.book.free(CLIENTS)[: self.book.budget()]
        if several:
            task = _train(self.book, *several)
            self.book.asks(Asked(version=self.book.version, tasks=(task,)), 0.0, instant=data.draw(st.booleans()))
            self.asked[task.task_id] = task

    @precondition(lambda self: self.book.open)
    @rule(data=st.data())
    def expires(self, data: st.DataObject) -> None:
        self.book.expires_now(data.draw(st.sampled_from(sorted(self.book.open))))

    @precondition(lambda self: self.asked)
    @rule(data=st.data())
    def arrives(self, data: st.DataObject) -> None:
        asked = self.asked[data.draw(st.sampled_from(sorted(self.asked)))]
        task = self.book.find(_manifest(asked))
        if task is None:
            assert asked.task_id in self.book.finished or self.book.lag(asked) > 0
            return
        self.book.answered(task)
        for client in task.clients:
            self._fate(task, client, data.draw(st.sampled_from(["accepted", "rejected", "lost"])))

    def _fate(self, task: Open, client: str, fate: str) -> None:
        admissible = (
            self.book.lag(task) <= self.book.spec.max_staleness and (client, task.base, ALL) not in self.book.seen
        )
        if fate == "lost":
            self.book.loses(client)
        elif fate == "accepted" and admissible:
            self.book.accepts(task, _result(client), 1.0)
        else:
            self.book.rejects(client)

    @rule()
    def retries(self) -> None:
        self.book.retries_now(1.0)

    @precondition(lambda self: self.book.accepted)
    @rule()
    def closes(self) -> None:
        _close(self.book)
        assert not self.book.accepted

    @invariant()
    def every_update_has_one_fate(self) -> None:
        for client, share in self.book.ledger.items():
            still_open = sum(client in o.clients for o in self.book.training())
            assert share.asked == share.accepted + share.late + share.rejected + share.lost + still_open

    @invariant()
    def the_numbers_of_the_round_hold(self) -> None:
        flying = [client for o in self.book.training() for client in o.clients]
        assert len(flying) == len(set(flying)) <= self.book.spec.in_flight
        assert not set(flying) & set(self.book.free(CLIENTS))
        progress = self.book.progress()
        assert progress.in_flight == len(flying)  # stale ones are given up at once
        assert progress.accepted == len(self.book.accepted)
        assert (progress.next_expiry < math.inf) == bool(self.book.open)


Life.TestCase.settings = settings(deadline=None, suppress_health_check=SLOW, max_examples=60, stateful_step_count=40)
test_whatever_happens_every_update_has_one_fate = Life.TestCase


# --- what a crash, a straggler or a race must not change


def _snapshot(book: Book) -> Commit:
    facts = {"run": "r", "at": 5.0, "setting": BLOB, "descriptions": (), "models": {}, "cursor": "0", "journal": BLOB}
    return Commit.model_validate({**book.dump(), **facts})


def test_an_update_accepted_but_not_counted_is_late_and_survives_the_commit() -> None:
    book = Book(_spec())
    ann, bob = _ask(book, "ann", "bob")
    _accept(book, ann)
    _accept(book, bob)
    counted = book.closes(Closed(version=0, counted=((ann.task_id, "ann"),), without=()))
    book.opens(1, 5.0)
    assert [a.client for a in counted] == ["ann"]
    assert (book.ledger["bob"].accepted, book.ledger["bob"].late) == (0, 1)
    restored = Book.of(_spec(), Commit.model_validate_json(_snapshot(book).model_dump_json()))
    assert restored.accepted == book.accepted != {}


def test_a_close_that_names_an_update_that_is_not_there_is_refused() -> None:
    book = Book(_spec())
    with pytest.raises(AggregationError, match="1 counted updates"):
        book.closes(Closed(version=0, counted=(("v0-ann-0", "ann"),), without=()))


def test_what_the_aggregator_lacks_is_counted_in_owners() -> None:
    book = Book(_spec(), least=2)
    late, other = _ask(book, "ann", "bob")
    book.expires_now(late.task_id)
    book.opens(1, 2.0)
    (newer,) = _ask(book, "ann")
    found = [book.progress()]
    for task in (late, newer, other):
        _accept(book, task)
        found.append(book.progress())
    assert [(p.accepted, p.short) for p in found] == [(0, 2), (1, 1), (2, 1), (3, 0)]


def test_a_late_answer_to_an_older_private_state_does_not_take_it_back() -> None:
    book = Book(_spec())
    (old,) = _ask(book, "ann")
    book.expires_now(old.task_id)
    book.retries_now(1.0)
    (new,) = _ask(book, "ann")
    book.opens(1, 2.0)
    newer, older = (BLOB.model_copy(update={"key": k}) for k in ("newer", "older"))
    book.answered(new)
    book.accepts(new, _result("ann", private=newer), 3.0)
    book.answered(old)
    book.accepts(old, _result("ann", private=older), 4.0)  # both began from no state: the first one moved it
    assert book.private == {"ann": newer}


def test_a_client_that_was_asked_again_and_counted_is_not_among_those_closed_without() -> None:
    book = Book(_spec())
    (lost,) = _ask(book, "ann")
    book.expires_now(lost.task_id)
    book.retries_now(1.0)
    (again,) = _ask(book, "ann")
    assert book.without() == ("ann",)
    _accept(book, again)
    assert book.without() == ()


def test_a_client_counts_once_for_a_base_whatever_is_asked_twice() -> None:
    book = Book(_spec())
    (task,) = _ask(book, "ann")
    book.expires_now(task.task_id)
    book.retries_now(1.0)
    (again,) = _ask(book, "ann")
    _accept(book, again)
    assert book.free(["ann"]) == []
    _close(book)
    assert ("ann", 0, ALL) in book.seen and ("ann", 0, ALL) in Book.of(_spec(), _snapshot(book)).seen


def test_what_nobody_can_answer_any_more_is_not_remembered_however_much_staleness_is_allowed() -> None:
    book = Book(_spec(max_staleness=100))
    (slow,) = _ask(book, "bob")
    for _ in range(20):
        (task,) = _ask(book, "ann")
        _accept(book, task)
        _close(book)
    assert book.seen == set() and len(book.finished) == 20, "bob has been at work all the time"
    _accept(book, slow)
    (task,) = _ask(book, "ann")
    _accept(book, task)
    _close(book)
    assert (book.seen, book.finished) == (set(), {})


def test_who_has_no_images_to_train_on_counts_towards_no_group() -> None:
    """Ann and bob train on the left, eve on the right; dan (right) and two of `gone` only evaluate."""
    train, test = Split(train=3), Split(test=3)
    clients = {"ann": train, "bob": train, "dan": test, "eve": train, "gus": test, "hal": test}
    description = Description(clients=clients, held_out={}, classes=("a", "b"), fingerprint="f")
    homes = {"ann": "left", "bob": "left", "dan": "right", "eve": "right", "gus": "gone", "hal": "gone"}
    facts = {"at": 5.0, "setting": BLOB, "cursor": "0", "journal": BLOB, "version": 0, "run": "r"}
    models = {0: dict.fromkeys(("left", "right", "gone"), BLOB)}
    commit = Commit(descriptions=(description,), models=models, assignment=homes, **facts)
    book = Book.of(_spec(in_flight=6, quorum=3, floor=3), commit)
    assert book.turns() == ["left", "right"], "a round of `gone` would wait for nobody until the run has failed"
    assert [book.numbers(group).in_flight for group in book.turns()] == [4, 2]
    assert book.group_of("gus") == "gone", "and is evaluated there all the same"


def test_groups_together_never_have_more_in_flight_than_the_run_may() -> None:
    # Shares of 3 slots: 2 of 4 clients are 1.5, rounded up to 2 for each group, and 2 + 2 are more than 3.
    home = {"ann": "a", "bob": "a", "cem": "b", "dua": "b"}
    spec = _spec(in_flight=3, quorum=2, floor=2, refill="at_arrival")
    book = Book(spec, rounds={"a": Round(), "b": Round()}, home=home, trainers=frozenset(home))
    assert (book.numbers("a").in_flight, book.numbers("b").in_flight) == (2, 2)
    tasks = tuple(_train(book, c).model_copy(update={"task_id": c, "group": "a"}) for c in ("ann", "bob"))
    book.asks(Asked(version=0, tasks=tasks, group="a"), 0.0, instant=False)
    assert (book.slots(), book.budget("b")) == (1, 1)

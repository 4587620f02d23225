"""Which tasks have been started, and which have lost their worker: by the beats that workers leave in the store."""

from infra.state import StateStore
from orchestrator.book import Book
from orchestrator.simulate import Simulator
from schemas.log import Open


class Vigil:
    """Watches the open tasks of a run. A worker is gone when it is silent at two looks after it was heard."""

    def __init__(self, run: str, state: StateStore, simulator: Simulator) -> None:
        self.run, self.state, self.simulator = run, state, simulator
        self.silent: set[str] = set()

    def look(self, book: Book, now: float) -> list[Open]:
        """Note in the book what has been started; the tasks whose worker is gone, although they are unanswered."""
        works = {f"{o.task_id}.{o.attempt}": o for o in book.unanswered()}
        beating = self.state.beating(self.run, works) if works else set()
        for work in beating:
            if works[work].started_at is None:
                book.starts(works[work].task_id, now)
        silent = {work for work, o in works.items() if o.started_at is not None} - beating
        gone = [works[work] for work in sorted(silent & self.silent)]
        self.silent = silent
        return [task for task in gone if not self.simulator.drops(task)]

"""Seeded schedules of changes, workers and faults. Hypothesis generates the schedules and shrinks those that fail."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace

from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from rag.labels import encode_label
from rag.models import Effect
from tests.fakes.world import IDS, SOURCE
from tests.faults.points import (
    OF_ANSWER,
    OF_BACKFILL,
    OF_COMPARISON,
    OF_ERASURE,
    OF_LANE,
    OF_PUBLISH,
    OF_SWEEP,
    Fault,
    kinds_of,
)
from tests.faults.station import CALLERS, DOCUMENTS, PERSON, Station

PARAGRAPHS = {
    "m": "# Mooring\n\nThree ropes hold a zeppelin.\n\n",
    "t": "## Storms\n\nTwo cables are added in a storm.\n\n",
    "p": "## Paint\n\nThe gangway is painted green.\n\n",
    "u": "## Soup\n\nThe captain eats soup at noon.\n\n",
}
BAD = {"empty": b"", "broken": b"%PDF-1.7 truncated", "too large": b"# Long\n\n" + b"too long " * 1500}
BAD_LABELS = {"title": "%FF"}
LABELS = ("", "group:staff", "group:finance", "group:staff,group:finance")
RULES = (
    SOURCE,
    replace(SOURCE, rules={}),
    replace(SOURCE, principals=("group:finance",)),
    replace(SOURCE, rules={"a": ("group:finance",), "finance/": ("group:staff",)}),
)

BY_KEY = {document.key: document for document in DOCUMENTS}

keys = st.sampled_from(sorted(BY_KEY))
paragraphs = st.text("mtpu", min_size=1, max_size=4)
labels = st.fixed_dictionaries(
    {},
    optional={
        "title": st.sampled_from(("Alpha", "Beta")),
        "principals": st.sampled_from(LABELS),
        "subjects": st.just(encode_label(PERSON)),
    },
)
effects = st.sampled_from((Effect.GRANT, Effect.REVOKE, None))
partitions = st.integers(0, 1)
numbers = st.integers(0, 3)
callers = st.sampled_from(CALLERS)


def content_of(text: str) -> bytes:
    """Return the document whose paragraphs ``text`` names by their letters."""
    return "".join(PARAGRAPHS[letter] for letter in text).encode()


def faults_at(points: Sequence[str]) -> st.SearchStrategy[Fault]:
    pairs = [(point, kind) for point in points for kind in kinds_of(point)]
    return st.builds(lambda pair, nth: Fault(pair[0], nth, pair[1]), st.sampled_from(pairs), st.sampled_from((1, 1, 2)))


MOST_ERASED = 2  # documents: the others must stay comparable
MOST_STOPPED = 3  # processes that wait to be resumed


class Schedule(RuleBasedStateMachine):
    """One schedule. After each step, a caller searches; at the end, the index is repaired and compared with a clean build."""

    def __init__(self) -> None:
        super().__init__()
        self.station = Station()
        self.step = 0

    @initialize(text=paragraphs)
    def begin(self, text: str) -> None:
        for document in DOCUMENTS:
            self.station.put(document, content_of(text), {})
        self.station.announce_all()
        for partition in (0, 1):
            self.station.run_lane(partition, None)

    # -- the sources

    @rule(key=keys, text=paragraphs, labels=labels)
    def edit(self, key: str, text: str, labels: dict[str, str]) -> None:
        self.station.put(BY_KEY[key], content_of(text), labels)

    @rule(key=keys, labels=labels | st.just(BAD_LABELS))
    def relabel(self, key: str, labels: dict[str, str]) -> None:
        self.station.relabel(BY_KEY[key], labels)

    @rule(key=keys, change=st.sampled_from(("delete", "move", *sorted(BAD))))
    def withdraw(self, key: str, change: str) -> None:
        document = BY_KEY[key]
        if change == "delete":
            self.station.delete(document)
        elif change == "move":
            self.station.move(document, BY_KEY["docs/b.md" if document.tenant == "acme" else key])
        else:
            self.station.put(document, BAD[change], {})

    @rule(key=keys, is_refused=st.booleans())
    def refuse(self, key: str, is_refused: bool) -> None:
        if is_refused:
            self.station.refuse(BY_KEY[key])
        else:
            self.station.stop_refusing()

    @rule(number=st.integers(0, len(RULES) - 1))
    def change_rules(self, number: int) -> None:
        self.station.rule(RULES[number])

    @rule(key=keys, person=st.booleans())
    def suppress(self, key: str, person: bool) -> None:
        document = BY_KEY[key]
        whom = IDS.subject_id(document.tenant, PERSON) if person else document.document_id
        self.station.suppress(document, [whom])

    @rule(
        key=keys,
        level=st.sampled_from((0, -2, -1)),
        group=st.sampled_from(("staff", "finance", "guests")),
        effect=effects,
    )
    def decide(self, key: str, level: int, group: str, effect: Effect | None) -> None:
        self.station.decide(BY_KEY[key], level, f"group:{group}", effect)

    @precondition(lambda self: len(self.station.erasures) < MOST_ERASED)
    @rule(key=keys)
    def erase(self, key: str) -> None:
        self.station.erase(BY_KEY[key])

    # -- the log

    @rule(
        key=keys,
        event=st.sampled_from(("announce", "announce_again", "tombstone", "spoil", "compact", "recreate_topic")),
    )
    def disturb_log(self, key: str, event: str) -> None:
        getattr(self.station, event)(BY_KEY[key])

    # -- the workers and the readers

    @rule(partition=partitions)
    def run_lane(self, partition: int) -> None:
        self.station.announce_all()
        self.station.run_lane(partition, None)

    @precondition(lambda self: len(self.station.stopped) < MOST_STOPPED)
    @rule(partition=partitions, fault=faults_at(OF_LANE))
    def run_lane_with_fault(self, partition: int, fault: Fault) -> None:
        self.station.announce_all()
        self.station.run_lane(partition, fault)

    @precondition(lambda self: len(self.station.stopped) < MOST_STOPPED)
    @rule(key=keys, text=paragraphs, labels=labels, fault=faults_at(OF_LANE))
    def edit_and_run_lane_with_fault(self, key: str, text: str, labels: dict[str, str], fault: Fault) -> None:
        self.station.put(BY_KEY[key], content_of(text), labels)
        self.station.announce_all()
        self.station.run_lane(BY_KEY[key].partition, fault)

    @precondition(lambda self: len(self.station.stopped) < MOST_STOPPED)
    @rule(partition=partitions, fault=faults_at(OF_BACKFILL) | st.none())
    def backfill(self, partition: int, fault: Fault | None) -> None:
        self.station.backfill(partition, fault)

    @precondition(lambda self: len(self.station.stopped) < MOST_STOPPED)
    @rule(fault=faults_at(OF_BACKFILL) | st.none())
    def retry_parked(self, fault: Fault | None) -> None:
        self.station.retry_parked(fault)

    @precondition(lambda self: self.station.erasures and len(self.station.stopped) < MOST_STOPPED)
    @rule(fault=faults_at(OF_ERASURE) | st.none())
    def work_on_erasures(self, fault: Fault | None) -> None:
        self.station.work_on_erasures(fault)

    @precondition(lambda self: len(self.station.stopped) < MOST_STOPPED)
    @rule(fault=faults_at(OF_PUBLISH))
    def publish(self, fault: Fault) -> None:
        self.station.publish(fault)

    @precondition(lambda self: len(self.station.stopped) < MOST_STOPPED)
    @rule(fault=faults_at(OF_SWEEP) | st.none())
    def sweep(self, fault: Fault | None) -> None:
        self.station.sweep(fault)

    @precondition(lambda self: len(self.station.stopped) < MOST_STOPPED)
    @rule(fault=faults_at(OF_COMPARISON) | st.none())
    def compare_stores(self, fault: Fault | None) -> None:
        self.station.compare_stores(fault)

    @precondition(lambda self: len(self.station.stopped) < MOST_STOPPED)
    @rule(caller=callers, is_answer=st.booleans(), fault=faults_at(OF_ANSWER))
    def read(self, caller: tuple[str, str], is_answer: bool, fault: Fault) -> None:
        (self.station.ask if is_answer else self.station.search)(caller, fault)

    @precondition(lambda self: self.station.stopped)
    @rule(number=numbers, meanwhile=st.sampled_from(("nothing", "sweep", "lane", "other rules")))
    def resume(self, number: int, meanwhile: str) -> None:
        """Resume a stopped process, perhaps after the sweep or another worker took over, or after the rules were changed."""
        if meanwhile == "sweep":
            self.station.sweep(None)
        elif meanwhile != "nothing":
            if meanwhile == "other rules":
                self.station.rule(RULES[number])
            self.station.announce_all()
            self.station.run_lane(0, None)
            self.station.run_lane(1, None)
        self.station.resume(number)
        self._search_as_everyone()

    @precondition(lambda self: self.station.faults.late)
    @rule(number=numbers)
    def execute_late(self, number: int) -> None:
        self.station.execute_late(number)
        self._search_as_everyone()

    # -- the stores

    @rule(store=st.sampled_from(("ledger", "vectors", "artifacts", "cache")), is_lost=st.booleans())
    def restore(self, store: str, is_lost: bool) -> None:
        """Restore a store from the last backup, or lose it. The first time, make the backup."""
        if not self.station.backup:
            self.station.back_up()
        elif is_lost and store != "ledger":
            self.station.lose(store)
        else:
            self.station.restore(store)

    @precondition(lambda self: self.station.is_degraded)
    @rule()
    def repair(self) -> None:
        self.station.repair()

    @invariant()
    def a_search_is_right(self) -> None:
        """Search as one caller after each step, and as another one after the next."""
        self.step += 1
        self.station.search(CALLERS[self.step % len(CALLERS)])

    def _search_as_everyone(self) -> None:
        for caller in CALLERS:
            self.station.search(caller)

    def teardown(self) -> None:
        has_failed = sys.exc_info()[0] is not None
        try:
            if not has_failed:
                self.station.repair()
        finally:
            self.station.close()


def run(schedules: int, number: int, *, steps: int = 20, shrink: bool = True) -> None:
    """Run ``schedules`` schedules of the seed ``number``. The error of a failed one has its seed and the shrunk schedule in its
    notes."""
    machine = seed(number)(type("Schedule", (Schedule,), {}))
    chosen = settings(
        max_examples=schedules,
        stateful_step_count=steps,
        deadline=None,
        database=None,
        phases=(Phase.generate, Phase.shrink) if shrink else (Phase.generate,),
        suppress_health_check=list(HealthCheck),
        print_blob=False,
        report_multiple_bugs=False,
    )
    try:
        run_state_machine_as_test(machine, settings=chosen)
    except Exception as error:
        error.add_note(f"seed {number}: run it again with `make faults N={schedules} SEED={number}`")
        raise

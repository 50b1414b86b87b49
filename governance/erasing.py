"""An accepted erasure, step by step, until its certificate: erase everywhere → settle → verify → certify → verify once more, later.

Each step is idempotent and recorded by compare-and-swap, so that a crash at any point, or two workers, do no harm. A request to a
store that timed out may still be executed. Therefore the verification waits for a settling time, erases late remains, and waits again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from governance import certificates
from governance.signing import Signer
from governance.stores import SOURCE_OBJECTS, Store
from rag.errors import TidemarkError
from rag.models import Erased, Erasure, ErasureEvent, ErasureState
from rag.ports import Catalog, Erasures, OutboxEvent
from rag.telemetry import ERASURES, logger, span
from schemas.events import ErasureCompleted
from schemas.topics import ERASURES_COMPLETED

_log = logger(__name__)
CONTROLS = 3  # documents that were not erased, which a verification must find


@dataclass(frozen=True, slots=True)
class Policy:
    """The times of an erasure, in seconds. What a stopped worker writes after the settling time is found by the anti-entropy job, and
    by the last verification."""

    settle: float = 5.0
    first_wait: float = 5.0  # after a failure; it doubles
    longest_wait: float = 3600.0
    horizon: float = (
        15 * 86_400.0
    )  # until the last verification: the longest retention of a topic that the lanes read, and a day
    attempts: int = 20  # failures in a row until a person must look


@dataclass(frozen=True)
class Eraser:
    """The parts that a step needs. ``stores`` are in the order in which they are erased: the sources of a derivation come first."""

    ledger: Erasures
    catalog: Catalog
    stores: Sequence[Store]
    signer: Signer
    index_id: str
    policy: Policy = field(default_factory=Policy)

    async def step(self, erasure: Erasure, now: datetime) -> Erasure:
        """Take the next step, and record it. A failure is recorded with the time of the next try, and never raised."""
        try:
            with span("erasures.step", state=erasure.state.value, documents=len(erasure.documents)):
                after = await self._next(erasure, now)
        except TidemarkError as error:
            after = self._failed(erasure, str(error), now)
        except Exception as error:
            _log.error("erasure.bug", erasure_id=erasure.erasure_id, error=type(error).__name__, exc_info=True)
            after = self._failed(erasure, f"bug: {type(error).__name__}", now)
        return await self.ledger.progress(after, _events(erasure, after, now))

    async def _next(self, erasure: Erasure, now: datetime) -> Erasure:
        if erasure.state in {ErasureState.REQUESTED, ErasureState.ERASING} or not erasure.stores:
            return await self._erase(erasure, now)
        if erasure.state is ErasureState.CERTIFIED:
            return await self._verify_again(erasure, now)
        return await self._verify(erasure, now)

    async def _erase(self, erasure: Erasure, now: datetime) -> Erasure:
        for store in self.stores:
            await store.erase(erasure.tenant, erasure.documents)
        return replace(
            erasure,
            state=ErasureState.VERIFYING,
            attempts=0,
            next_at=now + timedelta(seconds=self.policy.settle),
            stores={store.name: store.claim(now, erasure.documents) for store in self.stores},
            history=(*erasure.history, ErasureEvent(now, f"erased from {len(self.stores)} stores; settling")),
        )

    async def _verify(self, erasure: Erasure, now: datetime) -> Erasure:
        if late := await self._remains(erasure, self.stores):
            return await self._erase_again(erasure, late, now)
        checked = await self._find_controls(erasure, await self._controls(erasure))
        unsigned = replace(
            erasure,
            state=ErasureState.CERTIFIED,
            attempts=0,
            next_at=now + timedelta(seconds=self.policy.horizon),
            documents=tuple(each._replace(uri="") for each in erasure.documents),
            history=(*erasure.history, ErasureEvent(now, "verified: no store holds anything of it; certified")),
        )
        signed = certificates.certify(unsigned, now=now, checked=checked, signer=self.signer)
        return replace(unsigned, certificate=signed)

    async def _verify_again(self, erasure: Erasure, now: datetime) -> Erasure:
        """Verify after the longest replay horizon. The uris are gone, so this looks everywhere but at the source."""
        stores = [store for store in self.stores if store.name != SOURCE_OBJECTS]
        late = await self._remains(erasure, stores)
        for store in late:
            await store.erase(erasure.tenant, erasure.documents)
        text = "verified again after the longest replay horizon: " + (
            f"late remains removed from {', '.join(store.name for store in late)}" if late else "nothing came back"
        )
        next_at = now + timedelta(seconds=self.policy.settle) if late else None
        return replace(erasure, next_at=next_at, attempts=0, history=(*erasure.history, ErasureEvent(now, text)))

    async def _remains(self, erasure: Erasure, stores: Sequence[Store]) -> list[Store]:
        return [store for store in stores if await store.remains(erasure.tenant, erasure.documents)]

    async def _erase_again(self, erasure: Erasure, late: Sequence[Store], now: datetime) -> Erasure:
        for store in late:
            await store.erase(erasure.tenant, erasure.documents)
        names = ", ".join(store.name for store in late)
        return replace(
            erasure,
            state=ErasureState.VERIFYING,
            next_at=now + timedelta(seconds=self.policy.settle),
            stores=dict(erasure.stores) | {store.name: store.claim(now, erasure.documents) for store in late},
            history=(*erasure.history, ErasureEvent(now, f"late remains in {names} were erased; settling again")),
        )

    async def _controls(self, erasure: Erasure) -> list[Erased]:
        """Return a few live documents of the tenant that are not erased, of the same sources where there are such."""
        erased, sources = set(erasure.document_ids), {each.source for each in erasure.documents}
        near: list[Erased] = []
        others: list[Erased] = []
        after = ""
        while len(near) < CONTROLS and (
            page := await self.catalog.of_tenant(self.index_id, erasure.tenant, after=after)
        ):
            for record in page:
                if record.chunks and record.document_id not in erased:
                    control = Erased(record.document_id, record.source, record.uri)
                    (near if record.source in sources else others).append(control)
            after = page[-1].document_id
        return [*near, *others][:CONTROLS]

    async def _find_controls(self, erasure: Erasure, controls: Sequence[Erased]) -> dict[str, str]:
        """Return store → the result of the negative control. Raises Void when a store shows none of the controls: a check that cannot
        see what is there proves nothing. Several controls, because the source may have deleted one a moment ago."""
        checked: dict[str, str] = {}
        for store in self.stores:
            visible = store.visible(controls)
            if not controls:
                checked[store.name] = "no control: the tenant has no other document"
            elif not visible:
                checked[store.name] = "no control: see the claim"
            elif found := await store.remains(erasure.tenant, visible):
                checked[store.name] = f"{len(found)} of {len(visible)} controls found"
            else:
                raise certificates.Void(
                    f"the check of {store.name} finds no document that was not erased: repair the store, and it is verified again"
                )
        return checked

    def _failed(self, erasure: Erasure, why: str, now: datetime) -> Erasure:
        attempts = erasure.attempts + 1
        wait = min(self.policy.longest_wait, self.policy.first_wait * 2.0 ** min(attempts - 1, 30))
        is_lost = attempts >= self.policy.attempts and erasure.state is not ErasureState.CERTIFIED
        _log.warning("erasure.waits", erasure_id=erasure.erasure_id, why=why, attempt=attempts)
        return replace(
            erasure,
            state=ErasureState.INCOMPLETE if is_lost else _begun(erasure.state),
            attempts=attempts,
            next_at=now + timedelta(seconds=wait),
            history=(*erasure.history, ErasureEvent(now, f"failed: {why}"))
            if attempts in {1, self.policy.attempts}
            else erasure.history,
        )


def _begun(state: ErasureState) -> ErasureState:
    return ErasureState.ERASING if state is ErasureState.REQUESTED else state


def _events(before: Erasure, after: Erasure, now: datetime) -> list[OutboxEvent]:
    if after.state is before.state or after.state not in {ErasureState.CERTIFIED, ErasureState.INCOMPLETE}:
        return []
    ERASURES.labels(after.state.value).inc()
    completed = ErasureCompleted(
        erasure_id=after.erasure_id,
        tenant=after.tenant,
        outcome="erased" if after.state is ErasureState.CERTIFIED else "incomplete",
        certificate_id=after.erasure_id if after.certificate else "",
        certificate_sha256=hashlib.sha256(after.certificate.encode()).hexdigest() if after.certificate else "",
        completed_at=now,
    )
    return [OutboxEvent(ERASURES_COMPLETED, after.erasure_id, completed)]

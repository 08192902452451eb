"""The life of a token under random events in random order: it always has one state and at most one owner."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from support.faults import CUT, RESET, FaultProxy, Reply
from support.tokens import make_token

from picas import CouchDB, modifiers
from picas.documents import Document
from picas.modifiers import claim_of
from picas.pool import reset_tokens
from picas.pool.candidates import Candidates
from picas.pool.claims import Claimer
from picas.pool.results import ClaimedToken
from picas.tokens.states import STATES, state_of

PILOTS = range(3)
TOKENS = ("token_0", "token_1")
ANSWERS = (CUT, RESET, Reply(500, b'{"error":"unknown","reason":"a defect"}'), Reply(503, b"busy"))


def _revision(document: dict[str, Any]) -> dict[str, Any]:
    """Return the revision of a document as a field, or no field if it is new: CouchDB refuses an empty one."""
    return {"_rev": document["_rev"]} if "_rev" in document else {}


class TokenLife(RuleBasedStateMachine):
    """Pilots, people and a bad network that act on two tokens.

    :param client: a direct connection to the pool, as people use
    :param ways: a client for each pilot, through the proxy
    :param proxy: the proxy, which loses responses
    """

    def __init__(self, client: CouchDB, ways: list[CouchDB], proxy: FaultProxy) -> None:
        super().__init__()
        self.client = client
        self.ways = ways
        self.proxy = proxy
        self.proxy._faults.clear()
        self.claimers = [Claimer(Candidates("todo", {}), recheck_empty=False) for _ in PILOTS]
        self.held: dict[int, ClaimedToken] = {}
        self.saved: Counter[str] = Counter()
        """How many results each claim has saved."""
        self.edits = dict.fromkeys(TOKENS, 0)
        for token_id in TOKENS:
            client.edit(token_id, lambda old, name=token_id: {**_revision(old), **make_token(_id=name), "edits": 0})

    # --- what pilots do

    def _owns(self, pilot: int) -> bool:
        """Return whether this pilot's token is locked by this pilot in the pool."""
        held = self.held[pilot]
        return claim_of(self.client.get(held.id)).get("id") == claim_of(held.claimed)["id"]

    def _save(self, pilot: int) -> None:
        owned = self._owns(pilot)
        held = self.held.pop(pilot)
        is_saved = held.save(self.ways[pilot], max_outage=10)
        assert is_saved == owned
        self.saved[claim_of(held.claimed).get("id", "")] += is_saved

    def _take(self, pilot: int, locked: list[Any]) -> None:
        for task in locked:
            assert pilot not in self.held
            self.held[pilot] = ClaimedToken(task)
            assert self._owns(pilot)

    @rule(pilot=st.sampled_from(PILOTS))
    def claim(self, pilot: int) -> None:
        if pilot not in self.held:
            try:
                exchange = self.claimers[pilot].exchange(self.ways[pilot], f"pilot {pilot}", [], 1)
            except Exception:
                return  # the network failed too often, or the server refused; the pilot asks again
            self._take(pilot, exchange.locked)

    @rule(pilot=st.sampled_from(PILOTS), code=st.sampled_from([0, 1, ""]))
    def close(self, pilot: int, code: Any) -> None:
        if pilot in self.held:
            token = self.held[pilot].token
            token["exit_code"] = code
            modifiers.end_attempt(modifiers.close(token), "done" if code == 0 else "failed")
            self._save(pilot)

    @rule(pilot=st.sampled_from(PILOTS))
    def fail(self, pilot: int) -> None:
        if pilot in self.held:
            modifiers.end_attempt(modifiers.set_error(self.held[pilot].token, "it failed"), "failed")
            self._save(pilot)

    @rule(pilot=st.sampled_from(PILOTS))
    def scrub(self, pilot: int) -> None:
        if pilot in self.held:
            modifiers.scrub(modifiers.end_attempt(self.held[pilot].token, "failed"))
            self._save(pilot)

    @rule(pilot=st.sampled_from(PILOTS))
    def go_on(self, pilot: int) -> None:
        """Release the token and lock the next in one request."""
        if pilot in self.held:
            owned = self._owns(pilot)
            held = self.held.pop(pilot)
            held.token["exit_code"] = 0
            modifiers.end_attempt(modifiers.close(held.token), "done")
            exchange = self.claimers[pilot].exchange(self.ways[pilot], f"pilot {pilot}", [held], 1)
            is_saved = held.is_saved or held.save(self.ways[pilot], max_outage=10)
            assert is_saved == owned
            self._take(pilot, exchange.locked)

    @rule(pilot=st.sampled_from(PILOTS))
    def die(self, pilot: int) -> None:
        """Kill the pilot without warning, and let others put its token back."""
        if pilot in self.held:
            held = self.held.pop(pilot)
            token = Document(self.client.get(held.id).value)
            if claim_of(token).get("id") == claim_of(held.claimed)["id"]:
                self.client.save(modifiers.lose(token, max_lost=2))

    @rule(pilot=st.sampled_from(PILOTS))
    def be_taken_for_dead(self, pilot: int) -> None:
        """Let others put the token back while the pilot goes on."""
        if pilot in self.held and self._owns(pilot):
            self.client.save(modifiers.lose(self.client.get(self.held[pilot].id), max_lost=2))

    # --- what people and the network do

    @rule(state=st.sampled_from(["locked", "done", "error"]))
    def reset(self, state: str) -> None:
        reset_tokens(self.client, state)

    @rule(token_id=st.sampled_from(TOKENS))
    def edit(self, token_id: str) -> None:
        self.edits[token_id] += 1
        self.client.edit(token_id, lambda token: {**token, "edits": self.edits[token_id]})

    @precondition(lambda self: sum(fault.times for fault in self.proxy._faults) < 2)
    @rule(method=st.sampled_from(["PUT", "POST"]), answer=st.sampled_from(ANSWERS), after=st.booleans())
    def lose_an_answer(self, method: str, answer: Any, after: bool) -> None:
        self.proxy.fail(method, "", answer, after=after)

    # --- invariants

    @invariant()
    def each_token_is_in_one_view(self) -> None:
        where = Counter(row.id for state in STATES for row in self.client.view(state).rows)
        assert where == Counter(TOKENS)

    @invariant()
    def each_token_has_one_owner_and_a_sound_history(self) -> None:
        for token_id in TOKENS:
            token = self.client.get(token_id)
            owners = [pilot for pilot, held in self.held.items() if held.id == token_id and self._owns(pilot)]
            assert len(owners) <= 1
            if owners:
                assert state_of(token) == "locked"
            claims = [attempt["claim"] for attempt in token.get("attempts", [])]
            assert len(claims) == len(set(claims))
            assert claim_of(token).get("id") not in claims
            assert token["edits"] == self.edits[token_id]

    @invariant()
    def no_claim_saves_two_results(self) -> None:
        assert all(count <= 1 for count in self.saved.values())


@pytest.mark.usefixtures("quick")
def test_a_token_always_has_one_state_and_at_most_one_owner(client, location, through):
    with FaultProxy(location.url) as proxy:
        ways = [through(proxy) for _ in PILOTS]
        run_state_machine_as_test(
            lambda: TokenLife(client, ways, proxy),
            settings=settings(
                max_examples=8,
                stateful_step_count=25,
                # The same examples on each machine, without shrinking; start longer searches by hand.
                derandomize=True,
                phases=[Phase.generate],
                deadline=None,
                suppress_health_check=list(HealthCheck),
            ),
        )

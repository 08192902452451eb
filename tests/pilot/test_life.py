"""The life of a token under random events in random order: it always has one state and at most one owner."""

from __future__ import annotations

import contextlib
from collections import Counter
from typing import Any

import pytest
from couchdb.http import HTTPError
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from support.faults import CUT, RESET, FaultProxy, Reply
from support.tokens import make_token

from picas import CouchDB, modifiers
from picas.documents import Document
from picas.exceptions import PicasError
from picas.modifiers import claim_of
from picas.pool import candidates, reset_tokens
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
        self.held: dict[int, list[ClaimedToken]] = {pilot: [] for pilot in PILOTS}
        self.most_at_once = 0
        """The most tokens that an exchange has locked."""
        self.saved: Counter[str] = Counter()
        """How many results each claim has saved."""
        self.edits = dict.fromkeys(TOKENS, 0)
        for token_id in TOKENS:
            client.edit(token_id, lambda old, name=token_id: {**_revision(old), **make_token(_id=name), "edits": 0})

    # --- what pilots do

    def _owns(self, held: ClaimedToken) -> bool:
        """Return whether a token is locked in the pool by the lock that this pilot has."""
        return claim_of(self.client.get(held.id)).get("id") == claim_of(held.claimed)["id"]

    def _save(self, pilot: int, held: ClaimedToken) -> None:
        owned = self._owns(held)
        self.held[pilot].remove(held)
        is_saved = held.save(self.ways[pilot], max_outage=10)
        assert is_saved == owned
        self.saved[claim_of(held.claimed).get("id", "")] += is_saved

    def _exchange(self, pilot: int, releases: list[ClaimedToken]) -> None:
        """Save tokens and lock one, and as many as there are ahead."""
        wanted = 0 if len(self.held[pilot]) > len(releases) else 1
        exchange = self.claimers[pilot].exchange(
            self.ways[pilot], f"pilot {pilot}", releases, wanted, len(TOKENS) - wanted
        )
        for held in releases:
            self.held[pilot].remove(held)
        locked = [ClaimedToken(task) for task in exchange.locked]
        self.held[pilot] += locked
        for held in locked:
            assert self._owns(held)
        self.most_at_once = max(self.most_at_once, len(locked))

    @rule(pilot=st.sampled_from(PILOTS))
    def claim(self, pilot: int) -> None:
        # The network may fail too often, or the server refuse; the pilot asks again.
        with contextlib.suppress(PicasError, HTTPError):
            self._exchange(pilot, [])

    @rule(pilot=st.sampled_from(PILOTS), code=st.sampled_from([0, 1, ""]))
    def close(self, pilot: int, code: Any) -> None:
        for held in self.held[pilot][:1]:
            held.token["exit_code"] = code
            modifiers.end_attempt(modifiers.close(held.token), "done" if code == 0 else "failed")
            self._save(pilot, held)

    @rule(pilot=st.sampled_from(PILOTS))
    def fail(self, pilot: int) -> None:
        for held in self.held[pilot][:1]:
            modifiers.end_attempt(modifiers.set_error(held.token, "it failed"), "failed")
            self._save(pilot, held)

    @rule(pilot=st.sampled_from(PILOTS))
    def scrub(self, pilot: int) -> None:
        for held in self.held[pilot][:1]:
            modifiers.scrub(modifiers.end_attempt(held.token, "failed"))
            self._save(pilot, held)

    @rule(pilot=st.sampled_from(PILOTS))
    def give_back(self, pilot: int) -> None:
        """Put back the token that waits behind another, with nothing counted."""
        for held in self.held[pilot][1:]:
            modifiers.reset(held.token)
            self._save(pilot, held)

    @rule(pilot=st.sampled_from(PILOTS), count=st.sampled_from([1, len(TOKENS)]))
    def go_on(self, pilot: int, count: int) -> None:
        """Release tokens and lock others in one request."""
        releases = self.held[pilot][:count]
        owned = [self._owns(held) for held in releases]
        for held in releases:
            held.token["exit_code"] = 0
            modifiers.end_attempt(modifiers.close(held.token), "done")
        if not releases:
            return
        self._exchange(pilot, releases)
        for held, is_owned in zip(releases, owned):
            is_saved = held.is_saved or held.save(self.ways[pilot], max_outage=10)
            assert is_saved == is_owned
            self.saved[claim_of(held.claimed).get("id", "")] += is_saved

    @rule(pilot=st.sampled_from(PILOTS))
    def die(self, pilot: int) -> None:
        """Kill the pilot without warning, and let others put its tokens back."""
        held, self.held[pilot] = self.held[pilot], []
        for each in held:
            token = Document(self.client.get(each.id).value)
            if claim_of(token).get("id") == claim_of(each.claimed)["id"]:
                self.client.save(modifiers.lose(token, max_lost=2))

    @rule(pilot=st.sampled_from(PILOTS))
    def be_taken_for_dead(self, pilot: int) -> None:
        """Let others put the tokens back while the pilot goes on."""
        for held in self.held[pilot]:
            if self._owns(held):
                self.client.save(modifiers.lose(self.client.get(held.id), max_lost=2))

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
            held = [held for each in self.held.values() for held in each if held.id == token_id]
            owners = [each for each in held if self._owns(each)]
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
def test_a_token_always_has_one_state_and_at_most_one_owner(client, location, through, monkeypatch):
    monkeypatch.setattr(candidates, "SHARE", 1)  # otherwise nothing is locked ahead in so small a pool
    monkeypatch.setattr(candidates, "CROWD_SHARE", 1)
    monkeypatch.setattr(candidates, "LEFT_IN_CROWD", 0)
    lives = []

    def live():
        lives.append(TokenLife(client, ways, proxy))
        return lives[-1]

    with FaultProxy(location.url) as proxy:
        ways = [through(proxy) for _ in PILOTS]
        run_state_machine_as_test(
            live,
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
    assert max(life.most_at_once for life in lives) > 1

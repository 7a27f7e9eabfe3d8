"""Those who answer: handlers and iterators, one or several, and what becomes of questions when they fail or leave."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Callable
from typing import Any

import pytest
from support.waiting import begun

from stronghold_p2p import Direction, FirewallRequest, FirewallRules, Rule
from stronghold_p2p.firewall.answerers import Turns

from .conftest import ALICE, BOB, HERE, NO_RULES, STRANGERS, THERE, Desk, MakeDesk

IN = Direction.INBOUND
ALLOW, REJECT, ASK = Rule.ALLOW_ALL, Rule.REJECT_ALL, Rule.ASK

# -- a handler ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "outcomes"),
    [
        (FirewallRequest.approve, [True]),
        (FirewallRequest.reject, [False]),
        (lambda question: question.set_rule(ALLOW), [True]),
        (lambda question: question.set_rule(REJECT), [False]),
    ],
)
@pytest.mark.parametrize("rules", [NO_RULES, FirewallRules.ask_all()], ids=["peer", "request"])
async def test_answers_from_within_the_handler(
    make_desk: MakeDesk, rules: FirewallRules, answer: Callable[[FirewallRequest], None], outcomes: list[bool]
) -> None:
    desk = make_desk(rules)
    desk.approvals.add_handler(answer)
    await desk.ask()
    assert desk.outcomes == outcomes


async def test_a_handler_that_asks_on(make_desk: MakeDesk) -> None:
    """From a question about the peer to one about the request, both answered at once."""
    desk = make_desk()

    def answer(question: FirewallRequest) -> None:
        desk.questions.append(question)
        question.set_rule(ASK) if question.kind == "peer" else question.approve()

    desk.approvals.add_handler(answer)
    await desk.ask()
    assert desk.outcomes == [True]
    assert [question.kind for question in desk.questions] == ["peer", "request"]


async def test_an_asynchronous_handler(make_desk: MakeDesk) -> None:
    desk = make_desk()
    may_answer = asyncio.Event()

    async def answer(question: FirewallRequest) -> None:
        await may_answer.wait()
        question.approve()

    desk.approvals.add_handler(answer)
    await desk.ask()
    assert desk.outcomes == [None]
    may_answer.set()
    await desk.clock.settle()
    assert desk.outcomes == [True]


def broken(
    questions: list[FirewallRequest], *, asynchronous: bool, answer: Callable[[FirewallRequest], Any]
) -> Callable[..., Any]:
    def handler(question: FirewallRequest) -> None:
        questions.append(question)
        answer(question)
        raise LookupError("broken")

    async def asynchronously(question: FirewallRequest) -> None:
        handler(question)

    return asynchronously if asynchronous else handler


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_a_handler_that_raises_rejects(
    make_desk: MakeDesk, asynchronous: bool, caplog: pytest.LogCaptureFixture
) -> None:
    desk = make_desk()
    desk.approvals.add_handler(broken(desk.questions, asynchronous=asynchronous, answer=lambda _: None))
    with caplog.at_level(logging.ERROR):
        await desk.ask()
    assert desk.outcomes == [False]
    assert "broken" in caplog.text
    [question] = desk.questions  # which it may have kept
    assert question.waiting == 0
    assert not question.set_rule(ALLOW)
    assert not question.approve()
    assert desk.firewall.rules == NO_RULES
    await desk.ask()
    assert len(desk.questions) == 2  # it was no lack of an answer


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_an_answer_counts_though_the_handler_raises_then(make_desk: MakeDesk, asynchronous: bool) -> None:
    desk = make_desk()
    handler = broken(desk.questions, asynchronous=asynchronous, answer=lambda question: question.set_rule(ALLOW))
    desk.approvals.add_handler(handler)
    await desk.ask()
    assert desk.outcomes == [True]


@pytest.mark.parametrize("end", ["time", "cancellation", "close"])
async def test_a_handler_is_not_left_with_a_question_that_has_ended(make_desk: MakeDesk, end: str) -> None:
    """A remote would make as many of them wait as it likes."""
    desk = make_desk()
    ended = asyncio.Event()

    async def answer(question: FirewallRequest) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    desk.approvals.add_handler(answer)
    request = await desk.ask()
    if end == "time":
        await desk.clock.advance(desk.config.firewall_timeout)
    elif end == "cancellation":
        request.cancel()
    else:
        desk.approvals.close()
    await desk.clock.settle()
    assert ended.is_set()
    if end == "cancellation":
        desk.requests.clear()
    desk.check_empty()


async def test_a_handler_that_has_answered_may_go_on(make_desk: MakeDesk) -> None:
    desk = make_desk()
    may_end, ended = asyncio.Event(), False

    async def answer(question: FirewallRequest) -> None:
        nonlocal ended
        question.approve()
        await may_end.wait()
        ended = True

    desk.approvals.add_handler(answer)
    await desk.ask()
    assert desk.outcomes == [True]
    may_end.set()
    await desk.clock.settle()
    assert ended


async def test_nobody_listens(make_desk: MakeDesk) -> None:
    desk = make_desk()
    await desk.ask()
    assert desk.outcomes == [False]
    desk.listen()
    await desk.ask()
    assert len(desk.questions) == 1  # nobody was asked before, so nobody was worn out


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_a_handler_that_raises_what_ends_tasks_rejects(
    make_desk: MakeDesk, asynchronous: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """It is the failure of something that it awaits, for example."""

    def answer(question: FirewallRequest) -> None:
        raise asyncio.CancelledError

    async def asynchronously(question: FirewallRequest) -> None:
        answer(question)

    desk = make_desk()
    desk.approvals.add_handler(asynchronously if asynchronous else answer)
    with caplog.at_level(logging.ERROR):
        await desk.ask()
    assert desk.outcomes == [False]
    assert "CancelledError" in caplog.text


@pytest.mark.parametrize("answered", [False, True])
async def test_a_handler_may_close_the_peer(make_desk: MakeDesk, answered: bool) -> None:
    desk = make_desk()
    ended = asyncio.Event()

    async def answer(question: FirewallRequest) -> None:
        if answered:
            question.approve()
        desk.approvals.close()
        await asyncio.sleep(0)
        ended.set()

    desk.approvals.add_handler(answer)
    await desk.ask()
    assert desk.outcomes == [answered]
    assert ended.is_set()


async def test_a_handler_that_has_not_begun_is_put_away_with_its_question(make_desk: MakeDesk) -> None:
    desk = make_desk()

    async def answer(question: FirewallRequest) -> None:
        raise AssertionError

    def changes_its_mind(question: FirewallRequest) -> Any:
        asyncio.get_running_loop().call_soon(desk.firewall.set_peer_rule, ALICE, ALLOW, IN)
        return answer(question)

    desk.approvals.add_handler(changes_its_mind)
    await desk.ask()
    assert desk.outcomes == [True]


# -- an iterator --------------------------------------------------------------------------------------


async def test_the_queue(make_desk: MakeDesk) -> None:
    desk = make_desk()
    queue = desk.approvals.open_queue(2)
    for peer in (ALICE, BOB):
        await desk.ask(peer)
    first = await anext(queue)
    assert first.peer == ALICE
    first.approve()
    (await anext(queue)).reject()
    await desk.clock.settle()
    assert desk.outcomes == [True, False]
    desk.approvals.close()
    assert [question async for question in queue] == []


async def test_a_full_queue_rejects_and_forgets(make_desk: MakeDesk) -> None:
    desk = make_desk()
    queue = desk.approvals.open_queue(1)
    await desk.ask(ALICE)
    await desk.ask(BOB)
    assert desk.outcomes == [None, False]
    (await anext(queue)).approve()
    await desk.ask(BOB)
    assert (await anext(queue)).peer == BOB


async def test_the_queue_takes_turns_among_networks_and_then_among_peers(make_desk: MakeDesk) -> None:
    desk = make_desk(FirewallRules.ask_all())
    queue = desk.approvals.open_queue(64)
    asked = [(ALICE, HERE), (ALICE, HERE), (ALICE, HERE), (STRANGERS[0], HERE), (BOB, THERE), (BOB, THERE)]
    for peer, address in asked:
        await desk.ask(peer, address=address)
    taken = [await anext(queue) for _ in asked]
    assert [asked.index((question.peer, str(question.address))) for question in taken] == [0, 4, 3, 4, 0, 0]


async def test_in_a_full_queue_the_network_with_most_questions_gives_way(make_desk: MakeDesk) -> None:
    desk = make_desk()
    queue = desk.approvals.open_queue(4)
    for stranger in STRANGERS[:5]:
        await desk.ask(stranger, address=HERE)
    await desk.ask(BOB, address=THERE)
    assert desk.outcomes == [None, None, None, False, False, None]
    assert [(await anext(queue)).peer for _ in range(2)] == [STRANGERS[0], BOB]


async def test_in_a_full_queue_our_own_requests_stay(make_desk: MakeDesk) -> None:
    desk = make_desk()
    queue = desk.approvals.open_queue(2)
    for stranger in STRANGERS[:2]:
        await desk.ask(stranger, way=Direction.OUTBOUND)
    await desk.ask(BOB, address=THERE)
    assert desk.outcomes == [None, None, False]
    assert [(await anext(queue)).peer for _ in range(2)] == STRANGERS[:2]


async def test_what_a_full_queue_gives_up_is_left_to_the_others(make_desk: MakeDesk) -> None:
    desk = make_desk()
    queue = desk.approvals.open_queue(2)
    desk.listen()
    for peer, address in ((STRANGERS[0], HERE), (STRANGERS[1], HERE), (BOB, THERE)):
        await desk.ask(peer, address=address)
    assert desk.outcomes == [None] * 3
    assert [(await anext(queue)).peer for _ in range(2)] == [STRANGERS[0], BOB]
    assert desk.questions[1].approve()


# -- one at a time ------------------------------------------------------------------------------------


async def test_turns_of_networks_and_peers(desk: Desk) -> None:
    asked = [(STRANGERS[0], HERE), (STRANGERS[0], HERE), (STRANGERS[1], HERE), (BOB, THERE)]
    desk.firewall.set_default(ASK, IN)
    for peer, address in asked:
        await desk.ask(peer, address=address)
    turns = Turns()
    shown: list[int] = []

    async def show(question: FirewallRequest) -> None:
        await turns.take(question)
        shown.append(question.id)
        await asyncio.sleep(0)
        turns.pass_on()

    await asyncio.gather(*map(show, desk.questions))
    assert shown == [1, 2, 4, 3]
    assert turns.waiting == 0


@pytest.mark.parametrize("late", [False, True], ids=["before its turn", "as its turn comes"])
async def test_a_turn_of_what_has_ended_goes_to_the_next(desk: Desk, late: bool) -> None:
    for peer in (ALICE, *STRANGERS[:2]):
        await desk.ask(peer)
    turns = Turns()
    await turns.take(desk.questions[0])
    ended, following = [await begun(turns.take(question)) for question in desk.questions[1:]]
    if late:
        turns.pass_on()
        ended.cancel()
    else:
        ended.cancel()
        turns.pass_on()
    await following
    turns.pass_on()
    await turns.take(desk.questions[0])
    await asyncio.wait([ended])


async def test_so_many_turns_at_once_and_none_while_nobody_looks(desk: Desk) -> None:
    peers = [ALICE, BOB, *STRANGERS[:3]]
    for peer in peers:
        await desk.ask(peer)
    turns = Turns(0)
    taking = [await begun(turns.take(question)) for question in desk.questions]
    assert turns.waiting == 5
    turns.places = 3
    assert turns.waiting == 2
    await asyncio.gather(*taking[:3])
    turns.places = 1  # those that have their turn keep it
    for _ in range(2):
        turns.pass_on()
        assert turns.waiting == 2
    turns.pass_on()
    assert turns.waiting == 1
    turns.places = 2
    await asyncio.gather(*taking)


@pytest.mark.parametrize("end", ["time", "cancellation", "rule"])
async def test_questions_that_have_ended_take_no_place_in_the_queue(make_desk: MakeDesk, end: str) -> None:
    """Otherwise one peer that comes and goes would keep all others from being asked about."""
    desk = make_desk()
    queue = desk.approvals.open_queue(1)
    request = await desk.ask(ALICE)
    if end == "time":
        await desk.clock.advance(desk.config.firewall_timeout)
    elif end == "cancellation":
        request.cancel()
        desk.requests.clear()
        await desk.clock.settle()
    else:
        desk.firewall.set_peer_rule(ALICE, REJECT, IN)
        await desk.clock.settle()
    await desk.ask(BOB)
    assert (await anext(queue)).peer == BOB


async def test_several_take_from_the_queue(make_desk: MakeDesk) -> None:
    desk = make_desk()
    queue = desk.approvals.open_queue(8)
    takers = [asyncio.create_task(_take_all(queue)) for _ in range(2)]
    await desk.clock.settle()
    for peer in (ALICE, BOB):
        await desk.ask(peer)
    desk.approvals.close()
    taken = await asyncio.gather(*takers)
    assert sorted(question.peer is ALICE for part in taken for question in part) == [False, True]


async def _take_all(queue: Any) -> list[FirewallRequest]:
    return [question async for question in queue]


async def test_a_queue_without_room(make_desk: MakeDesk) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        make_desk().approvals.open_queue(0)


async def test_the_iteration_goes_on_only_while_there_may_be_questions(make_desk: MakeDesk) -> None:
    desk = make_desk()
    desk.approvals.close()
    assert [question async for question in desk.approvals.open_queue(1)] == []


# -- several ------------------------------------------------------------------------------------------


class Colleague:
    """One of those who answer: a plain handler, an async one, or an iterator with its task."""

    def __init__(self, desk: Desk, kind: str) -> None:
        self.questions: list[FirewallRequest] = []
        self.ended = 0
        """Async calls that were cancelled."""
        self._approvals = desk.approvals
        self._kind = kind
        self._handler: Any = self.hear_async if kind == "async" else self.questions.append
        self._queue = desk.approvals.open_queue(8) if kind == "iterator" else None
        if self._queue is None:
            desk.approvals.add_handler(self._handler)
        else:
            self._task = asyncio.create_task(self._iterate())

    async def hear_async(self, question: FirewallRequest) -> None:
        self.questions.append(question)
        try:
            await asyncio.Event().wait()
        finally:
            self.ended += 1

    async def _iterate(self) -> None:
        assert self._queue is not None
        async for question in self._queue:
            self.questions.append(question)

    def leave(self) -> None:
        if self._queue is None:
            self._approvals.remove_handler(self._handler)
        else:
            self._queue.close()


KINDS = ["plain", "async", "iterator"]


@pytest.mark.parametrize("first", KINDS)
@pytest.mark.parametrize("second", KINDS)
async def test_each_gets_every_question_and_the_first_answer_decides(
    make_desk: MakeDesk, first: str, second: str
) -> None:
    desk = make_desk()
    one, other = Colleague(desk, first), Colleague(desk, second)
    await desk.ask(ALICE)
    await desk.ask(BOB)
    for colleague in (one, other):
        assert [(question.id, question.peer) for question in colleague.questions] == [(1, ALICE), (2, BOB)]
    assert other.questions[0].approve()
    assert one.questions[1].reject()
    for late in (one.questions[0], other.questions[1]):
        assert not late.approve()
        assert not late.set_rule(REJECT)
        assert late.waiting == 0
    await desk.clock.settle()
    assert desk.outcomes == [True, False]
    assert desk.firewall.rules == NO_RULES
    assert [one.ended, other.ended] == [2 * (kind == "async") for kind in (first, second)]


async def test_a_handler_that_answers_goes_on_while_the_others_are_cancelled(make_desk: MakeDesk) -> None:
    desk = make_desk()
    may_answer, ended = asyncio.Event(), asyncio.Event()

    async def answer(question: FirewallRequest) -> None:
        await may_answer.wait()
        question.approve()
        await asyncio.sleep(0)
        ended.set()

    before = Colleague(desk, "async")
    desk.approvals.add_handler(answer)
    after = Colleague(desk, "async")
    await desk.ask()
    may_answer.set()
    await desk.clock.settle()
    assert ended.is_set()
    assert (before.ended, after.ended) == (1, 1)


async def test_what_one_answers_at_once_bothers_nobody_else(make_desk: MakeDesk) -> None:
    """Neither an async handler that was to begin, nor an iterator, nor a handler that comes later."""
    desk = make_desk()
    others = [Colleague(desk, kind) for kind in ("async", "iterator")]
    desk.approvals.add_handler(FirewallRequest.approve)
    desk.listen()
    await desk.ask()
    assert desk.outcomes == [True]
    assert desk.questions == [question for other in others for question in other.questions] == []


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("order", [[0, 1], [1, 0]])
async def test_a_handler_that_raises_leaves_the_question_to_the_others(
    make_desk: MakeDesk, asynchronous: bool, order: list[int]
) -> None:
    desk = make_desk()
    failing = broken([], asynchronous=asynchronous, answer=lambda _: None)
    for which in order:
        desk.approvals.add_handler([failing, desk.questions.append][which])
    await desk.ask()
    assert desk.outcomes == [None]
    assert desk.questions[0].approve()


@pytest.mark.parametrize("rules", [NO_RULES, FirewallRules.ask_all()], ids=["peer", "request"])
async def test_a_question_is_rejected_when_the_last_who_could_answer_has_failed(
    make_desk: MakeDesk, rules: FirewallRules
) -> None:
    desk = make_desk(rules)
    may_fail = [asyncio.Event() for _ in range(3)]

    def failing(event: asyncio.Event) -> Callable[[FirewallRequest], Any]:
        async def fail(question: FirewallRequest) -> None:
            await event.wait()
            raise LookupError("broken")

        return fail

    for event in may_fail:
        desk.approvals.add_handler(failing(event))
    desk.approvals.add_handler(broken([], asynchronous=False, answer=lambda _: None))
    await desk.ask()
    outcomes: list[list[bool | None]] = []
    for event in may_fail:
        event.set()
        await desk.clock.settle()
        outcomes.append(desk.outcomes)
    assert outcomes == [[None], [None], [False]]
    await desk.ask()
    assert desk.outcomes == [False, False]  # at once


async def test_a_full_iterator_leaves_the_question_to_the_others(make_desk: MakeDesk) -> None:
    desk = make_desk()
    full = desk.approvals.open_queue(1)
    desk.listen()
    await desk.ask(ALICE)
    await desk.ask(BOB)
    assert [question.peer for question in desk.questions] == [ALICE, BOB]
    assert (await anext(full)).peer == ALICE
    desk.questions[1].approve()
    await desk.clock.settle()
    assert desk.outcomes == [None, True]


async def test_nobody_takes_it_for_want_of_room_and_by_failure(make_desk: MakeDesk) -> None:
    desk = make_desk()
    queues = [desk.approvals.open_queue(1) for _ in range(2)]
    await desk.ask(ALICE)
    desk.approvals.add_handler(broken([], asynchronous=False, answer=lambda _: None))
    await desk.ask(BOB)
    assert desk.outcomes == [None, False]
    assert [(await anext(queue)).peer for queue in queues] == [ALICE, ALICE]


@pytest.mark.parametrize("kind", KINDS)
async def test_who_comes_later_gets_what_is_open(make_desk: MakeDesk, kind: str) -> None:
    """Otherwise a second device would see nothing of a question that nobody answers on the first."""
    desk = make_desk().listen()
    for peer in (ALICE, BOB):
        await desk.ask(peer)
    desk.questions[0].approve()
    late = Colleague(desk, kind)
    await desk.clock.settle()
    [question] = late.questions
    assert (question.id, question.peer, question.waiting) == (2, BOB, 1)
    assert question.approve()


async def test_who_comes_later_may_answer_at_once_or_fail(make_desk: MakeDesk) -> None:
    desk = make_desk().listen()
    await desk.ask()
    desk.approvals.add_handler(broken(desk.questions, asynchronous=False, answer=lambda _: None))
    assert desk.outcomes == [None]
    desk.approvals.add_handler(FirewallRequest.approve)
    await desk.clock.settle()
    assert desk.outcomes == [True]


# -- taken away ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("leaver", KINDS)
@pytest.mark.parametrize("other", [*KINDS, None])
async def test_a_question_is_rejected_when_the_last_who_could_answer_has_left(
    make_desk: MakeDesk, leaver: str, other: str | None
) -> None:
    desk = make_desk()
    leaving = Colleague(desk, leaver)
    staying = None if other is None else Colleague(desk, other)
    await desk.ask()
    for _ in range(2):  # a second time it does nothing
        leaving.leave()
        await desk.clock.settle()
        assert leaving.ended == (leaver == "async")
    await desk.ask(BOB)
    assert len(leaving.questions) == 1
    if staying is None:
        assert desk.outcomes == [False, False]
        return
    assert desk.outcomes == [None, None]
    assert [question.approve() for question in staying.questions] == [True, True]


async def test_who_takes_the_place_of_another_gets_its_questions(make_desk: MakeDesk) -> None:
    desk = make_desk()
    before = Colleague(desk, "plain")
    await desk.ask()
    after = Colleague(desk, "plain")
    before.leave()
    await desk.clock.settle()
    assert desk.outcomes == [None]
    assert after.questions[0].approve()


async def test_a_handler_that_was_never_there_is_taken_away_without_effect(desk: Desk) -> None:
    await desk.ask()
    desk.approvals.remove_handler(print)
    await desk.clock.settle()
    assert desk.outcomes == [None]


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_a_handler_that_takes_itself_away(make_desk: MakeDesk, asynchronous: bool) -> None:
    """Before or after its answer; nobody else is there."""
    desk = make_desk()
    ended = False

    def once(question: FirewallRequest) -> None:
        desk.questions.append(question)
        if question.peer is ALICE:
            question.approve()
        desk.approvals.remove_handler(handler)

    async def once_asynchronously(question: FirewallRequest) -> None:
        nonlocal ended
        once(question)
        await asyncio.sleep(0)
        ended = True

    handler: Any = once_asynchronously if asynchronous else once
    for peer in (ALICE, BOB):
        desk.approvals.add_handler(handler)
        await desk.ask(peer)
        assert ended == asynchronous
    assert desk.outcomes == [True, False]
    await desk.ask()
    assert len(desk.questions) == 2


async def test_a_handler_that_takes_another_away(make_desk: MakeDesk) -> None:
    desk = make_desk()
    desk.approvals.add_handler(lambda _: desk.approvals.remove_handler(desk.questions.append))
    desk.listen()
    await desk.ask()
    assert desk.questions == []
    desk.approvals.close()


async def test_a_handler_that_takes_another_away_and_fails(desk: Desk) -> None:
    """Nobody is left who could answer."""
    await desk.ask()

    def fails(_: FirewallRequest) -> None:
        desk.approvals.remove_handler(desk.questions.append)
        raise ValueError

    desk.approvals.add_handler(fails)
    await desk.clock.settle()
    assert desk.outcomes == [False]
    assert desk.questions[0].outcome == "unanswered"


async def test_closing_an_iterator_ends_those_who_wait_for_it_and_all_its_questions(make_desk: MakeDesk) -> None:
    desk = make_desk()
    queue = desk.approvals.open_queue(8)
    await desk.ask(ALICE)
    await desk.ask(BOB)
    taken = await anext(queue)
    rest = asyncio.create_task(_take_all(queue))
    await desk.clock.settle()
    queue.close()
    await desk.clock.settle()
    assert desk.outcomes == [False, False]
    assert not taken.approve()
    assert [question.peer for question in rest.result()] == [BOB]
    await desk.ask(BOB)
    assert desk.outcomes[2] is False


async def test_an_iterator_that_nobody_holds_is_forgotten_with_its_questions(make_desk: MakeDesk) -> None:
    desk = make_desk()
    queue: Any = desk.approvals.open_queue(8)
    await desk.ask(ALICE)
    await desk.ask(BOB)
    taken = await anext(queue)
    del queue
    gc.collect()
    await desk.clock.settle()
    assert desk.outcomes == [None, False]
    assert taken.approve()  # whoever has it may still answer
    await desk.ask(BOB)
    assert desk.outcomes == [True, False, False]


async def test_an_iterator_may_be_dropped_by_any_thread(make_desk: MakeDesk) -> None:
    desk = make_desk()
    held = [desk.approvals.open_queue(8)]
    await desk.ask()
    await asyncio.to_thread(held.clear)
    await desk.clock.settle()
    assert desk.outcomes == [False]


async def test_an_iterator_that_is_dropped_unused_leaves_nothing(make_desk: MakeDesk) -> None:
    desk = make_desk()
    desk.approvals.open_queue(8)
    gc.collect()
    await desk.ask()
    assert desk.outcomes == [False]
    assert not desk.approvals._answerers

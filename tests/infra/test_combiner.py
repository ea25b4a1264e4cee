"""One batch in flight; what arrives meanwhile is the next one; everybody is told something."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import pytest

from engine.infra.combiner import AHEAD_MIN, Combiner, Crew, Seat
from engine.infra.errors import Fault, InProgress, OutcomeUnknown, Retryable

Chair = Seat[int, int]


class Kitchen:
    """Work that waits at a gate, and remembers what it was given."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.gate = asyncio.Event()
        self.at_once = self.most_at_once = 0

    async def __call__(self, seats: list[Chair]) -> None:
        self.batches.append([seat.wish for seat in seats])
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await self.gate.wait()
        self.at_once -= 1
        for seat in seats:
            seat.answer(seat.wish * 10)


@pytest.fixture
async def crew() -> AsyncIterator[Crew]:
    crew = Crew()
    watch = crew.start(crew.watch(), "deadlines")
    yield crew
    await crew.drain(5)
    watch.cancel()


@pytest.fixture
async def kitchen() -> Kitchen:
    return Kitchen()


def _combiner(
    crew: Crew, work: Callable[[list[Chair]], Awaitable[None]], **knobs: Any
) -> Combiner[int, int]:
    return Combiner(crew, "test", work, **knobs)


async def _turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def _are_told(wanted: Sequence[tuple[Chair, type[Exception]]]) -> None:
    for seat, problem in wanted:
        with pytest.raises(problem):
            await seat


async def test_a_lone_wish_is_served_at_once(crew: Crew, kitchen: Kitchen) -> None:
    kitchen.gate.set()

    assert await _combiner(crew, kitchen).put(7) == 70

    assert kitchen.batches == [[7]]


async def test_what_arrives_while_a_batch_is_in_flight_is_the_next_batch(
    crew: Crew, kitchen: Kitchen
) -> None:
    combiner = _combiner(crew, kitchen)
    first = combiner.put(0)
    await _turns()
    later = []
    for n in range(1, 6):
        later.append(combiner.put(n))
        await _turns()
    assert kitchen.batches == [[0]]

    kitchen.gate.set()
    answers = await asyncio.gather(*(seat for seat in (first, *later)))

    assert kitchen.batches == [[0], [1, 2, 3, 4, 5]]
    assert kitchen.most_at_once == 1
    assert answers == [0, 10, 20, 30, 40, 50]


async def test_a_second_batch_begins_beside_the_first_only_when_many_wait(
    crew: Crew, kitchen: Kitchen
) -> None:
    combiner = _combiner(crew, kitchen, at_once=2)
    seats = [combiner.put(0)]
    await _turns()
    seats += [combiner.put(n) for n in range(1, AHEAD_MIN)]
    await _turns()
    assert kitchen.batches == [[0]]

    seats.append(combiner.put(AHEAD_MIN))
    await _turns()
    seats += [combiner.put(AHEAD_MIN + n) for n in range(1, 2 * AHEAD_MIN)]
    await _turns()
    assert [len(batch) for batch in kitchen.batches] == [1, AHEAD_MIN]

    kitchen.gate.set()
    told = await asyncio.gather(*(seat for seat in seats))
    assert told == [10 * n for n in range(3 * AHEAD_MIN)]
    assert kitchen.most_at_once == 2
    assert not combiner.busy


async def test_who_is_overdue_is_told_in_whichever_batch_he_sits(
    crew: Crew, kitchen: Kitchen
) -> None:
    combiner = _combiner(crew, kitchen, at_once=2, deadline_seconds=0.2)
    first = combiner.put(0)
    await _turns()
    beside = [combiner.put(n) for n in range(AHEAD_MIN)]

    await _are_told([(first, Retryable), (beside[0], Retryable), (beside[-1], Retryable)])

    assert len(kitchen.batches) == 2
    kitchen.gate.set()


async def test_a_batch_is_no_larger_than_it_may_be_and_keeps_the_order(
    crew: Crew, kitchen: Kitchen
) -> None:
    combiner = _combiner(crew, kitchen, batch_max=3)
    kitchen.gate.set()

    await asyncio.gather(*(combiner.put(n) for n in range(8)))

    assert kitchen.batches == [[0, 1, 2], [3, 4, 5], [6, 7]]


async def test_who_was_told_before_his_turn_is_left_out_and_the_others_are_served(
    crew: Crew, kitchen: Kitchen
) -> None:
    combiner = _combiner(crew, kitchen)
    seats = [combiner.put(n) for n in range(3)]
    await _turns()
    gone, stays = combiner.put(3), combiner.put(4)
    gone.fail(Retryable())

    kitchen.gate.set()
    await asyncio.gather(*(seat for seat in (*seats, stays)))

    assert kitchen.batches == [[0, 1, 2], [4]]


async def test_who_is_told_in_the_middle_of_a_batch_stops_nothing(
    crew: Crew, kitchen: Kitchen
) -> None:
    combiner = _combiner(crew, kitchen)
    gone, stays = combiner.put(1), combiner.put(2)
    await _turns()
    gone.fail(Retryable())

    kitchen.gate.set()

    assert await stays == 20
    assert kitchen.batches == [[1, 2]]


async def test_a_batch_that_crashes_fails_only_who_has_no_answer_yet(crew: Crew) -> None:
    async def work(seats: list[Chair]) -> None:
        seats[0].answer(1)
        seats[2].at_risk = True
        raise RuntimeError("a bug")

    combiner = _combiner(crew, work)
    answered, queued, sent = (combiner.put(n) for n in range(3))

    assert await answered == 1
    with pytest.raises(Retryable):
        await queued
    with pytest.raises(OutcomeUnknown):
        await sent


async def test_after_a_crash_the_next_batch_is_served(crew: Crew) -> None:
    async def work(seats: list[Chair]) -> None:
        if seats[0].wish == 0:
            raise RuntimeError("a bug")
        seats[0].answer(1)

    combiner = _combiner(crew, work)
    with pytest.raises(Retryable):
        await combiner.put(0)

    assert await combiner.put(1) == 1


async def test_a_fault_says_that_nothing_was_taken_only_to_who_can_know_it(crew: Crew) -> None:
    """A keyed request may be the copy of one that was sent and succeeded."""

    async def work(seats: list[Chair]) -> None:
        seats[1].at_risk = True
        raise Fault

    combiner = _combiner(crew, work)
    queued, sent, keyed = combiner.put(0), combiner.put(1), combiner.put(2, keyed=True)

    wanted = [(queued, Retryable), (sent, OutcomeUnknown), (keyed, OutcomeUnknown)]
    await _are_told(wanted)


async def test_at_the_deadline_everybody_is_told_what_is_known(
    crew: Crew, kitchen: Kitchen
) -> None:
    async def work(seats: list[Chair]) -> None:
        seats[0].at_risk = True
        seats[2].copying = True
        await kitchen(seats)

    combiner = _combiner(crew, work, deadline_seconds=0.05)
    sent, unsent, copy = (combiner.put(n) for n in range(3))
    await _turns()
    queued, keyed = combiner.put(3), combiner.put(4, keyed=True)

    await _are_told(
        [
            (sent, OutcomeUnknown),
            (unsent, Retryable),
            (copy, InProgress),
            (queued, Retryable),
            (keyed, OutcomeUnknown),
        ]
    )
    kitchen.gate.set()
    await _turns()
    assert kitchen.batches == [[0, 1, 2]]  # whose time was up in the queue is not served


async def test_who_was_told_stays_told(crew: Crew, kitchen: Kitchen) -> None:
    combiner = _combiner(crew, kitchen, deadline_seconds=0.05)
    seat = combiner.put(1)
    with pytest.raises(Fault):
        await seat

    kitchen.gate.set()
    await _turns()

    assert isinstance(seat.problem, Fault)


async def test_a_full_queue_refuses_and_takes_nothing(crew: Crew, kitchen: Kitchen) -> None:
    combiner = _combiner(crew, kitchen, queue_max=2)
    seats = [combiner.put(0)]
    await _turns()
    seats += [combiner.put(1), combiner.put(2)]

    with pytest.raises(Retryable):
        combiner.put(3)
    with pytest.raises(OutcomeUnknown):
        combiner.put(4, keyed=True)

    kitchen.gate.set()
    await asyncio.gather(*(seat for seat in seats))
    assert kitchen.batches == [[0], [1, 2]]


async def test_a_seat_may_be_served_again_now_or_a_little_later(crew: Crew) -> None:
    served: list[int] = []

    async def work(seats: list[Chair]) -> None:
        for seat in seats:
            served.append(seat.wish)
            seat.at_risk = True
            match served.count(seat.wish):
                case 1:
                    combiner.again(seat)
                case 2:
                    combiner.again(seat, 0.01)
                case _:
                    seat.answer(seat.wish)
            assert seat.at_risk is False or seat.told

    combiner = _combiner(crew, work)

    assert await combiner.put(5) == 5
    assert served == [5, 5, 5]


async def test_who_waits_to_be_served_again_is_told_at_his_deadline_too(crew: Crew) -> None:
    async def work(seats: list[Chair]) -> None:
        combiner.again(seats[0], 0.5)

    combiner = _combiner(crew, work, deadline_seconds=0.05)

    with pytest.raises(Retryable):
        await combiner.put(1)


async def test_draining_waits_for_every_batch_and_takes_no_new_wish(kitchen: Kitchen) -> None:
    crew = Crew()
    combiner = _combiner(crew, kitchen)
    seats = [combiner.put(0)]
    await _turns()
    seats.append(combiner.put(1))

    draining = asyncio.create_task(crew.drain(5))
    await _turns()
    with pytest.raises(Retryable):
        combiner.put(2)
    assert not draining.done()
    kitchen.gate.set()
    await draining

    assert [seat.result() for seat in seats] == [0, 10]
    assert not combiner.busy


async def test_draining_ends_what_does_not_end(kitchen: Kitchen) -> None:
    crew = Crew()
    seat = _combiner(crew, kitchen).put(0)
    await _turns()

    await crew.drain(0.02)

    assert kitchen.batches == [[0]]
    assert isinstance(seat.problem, Retryable)


async def test_who_waits_while_the_worker_is_ended_hears_what_is_known_of_him(
    kitchen: Kitchen,
) -> None:
    crew = Crew()

    async def work(seats: list[Chair]) -> None:
        seats[0].at_risk = True
        await kitchen(seats)

    combiner = _combiner(crew, work)
    sent, unsent = combiner.put(0), combiner.put(1)
    await _turns()

    await crew.drain(0.02)

    await _are_told([(sent, OutcomeUnknown), (unsent, Retryable)])


async def test_work_that_must_be_finished_outlives_who_asked_for_it(
    crew: Crew, kitchen: Kitchen
) -> None:
    done = asyncio.Event()

    async def work() -> int:
        await kitchen.gate.wait()
        done.set()
        return 1

    asking = asyncio.create_task(crew.within(work(), 5, Retryable))
    await _turns()
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking

    kitchen.gate.set()
    await asyncio.wait_for(done.wait(), 2)

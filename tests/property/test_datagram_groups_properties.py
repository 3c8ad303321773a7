"""What one segmented send may carry: the rules of UDP_SEGMENT, for any queue of datagrams."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from smartproxy.core.datagrams import Datagram
from smartproxy.drivers.datagrams import MAX_GROUP_BYTES, MAX_GROUP_DATAGRAMS, end_of_group

ADDRESSES = [("192.0.2.1", 443), ("192.0.2.1", 444), ("2001:db8::1", 443)]

runs = st.tuples(
    st.sampled_from([0, 1, 2, 1200, 1350, 9000, 65_507]), st.integers(1, 100), st.sampled_from(ADDRESSES)
)


@st.composite
def queues(draw: st.DrawFn) -> list[Datagram]:
    """Runs of datagrams that look alike, as a connection with much to send makes them."""
    queue: list[Datagram] = []
    for size, count, (host, port) in draw(st.lists(runs, max_size=8)):
        # Equal addresses need not be the same object.
        queue += [(bytes(size), (host, port)) for _ in range(count)]
    return queue


def groups_of(queue: list[Datagram]) -> list[list[Datagram]]:
    groups: list[list[Datagram]] = []
    start = 0
    while start < len(queue):
        end = end_of_group(queue, start)
        assert end > start
        groups.append(queue[start:end])
        start = end
    return groups


@given(queues())
def test_groups_are_the_queue_in_its_order(queue: list[Datagram]) -> None:
    assert [datagram for group in groups_of(queue) for datagram in group] == queue


@given(queues())
def test_a_group_can_be_cut_up_again(queue: list[Datagram]) -> None:
    for group in groups_of(queue):
        sizes = [len(data) for data, _ in group]
        assert len({address for _, address in group}) == 1
        if len(group) > 1:
            assert set(sizes[:-1]) == {sizes[0]}
            assert 0 < sizes[-1] <= sizes[0]
            assert sum(sizes) <= MAX_GROUP_BYTES
            assert len(group) <= MAX_GROUP_DATAGRAMS
            joined = b"".join(data for data, _ in group)
            cut = [joined[at : at + sizes[0]] for at in range(0, len(joined), sizes[0])]
            assert cut == [data for data, _ in group]


@given(queues())
def test_nothing_that_fits_begins_a_group_of_its_own(queue: list[Datagram]) -> None:
    groups = groups_of(queue)
    for group, following in pairwise(groups):
        size, last = len(group[0][0]), len(group[-1][0])
        length, address = len(following[0][0]), following[0][1]
        is_full = (
            len(group) == MAX_GROUP_DATAGRAMS
            or sum(len(data) for data, _ in group) + length > MAX_GROUP_BYTES
            or last < size
        )
        assert is_full or length > size or not length or address != group[0][1]

"""What a source brings, and how it says that it has no more."""

import pickle
from collections.abc import Iterator

import pytest
from signs import wait_until
from under_test import events, runs, sources

Sizes = runs.Sizes(items=1, seconds=1, least=1, growth=1)


def a_run() -> runs.Run:
    """A map that nobody schedules."""
    settings = runs.Settings("job")
    sizer = runs.Sizer(settings, 1, Sizes)
    return runs.Run(1, settings, b"", sizer, runs.Shelf(ordered=True))


@pytest.mark.parametrize("nbytes", [1, 2 * runs.SMALL])
@pytest.mark.parametrize("own_thread", [True, False])
@pytest.mark.parametrize("fails", [True, False])
def test_nothing_is_brought_after_the_end(nbytes: int, own_thread: bool, fails: bool) -> None:
    """Whatever the size of the chunk that has the last items."""
    posted: list[events.Fetched] = []

    def post(event: events.Event) -> None:
        assert isinstance(event, events.Fetched)
        posted.append(event)

    def items() -> Iterator[bytes]:
        yield from [bytes(nbytes)] * 3
        if fails:
            raise ValueError("no more")

    kind = sources.ReadByItself if own_thread else sources.ReadBySomebody
    source = kind(items(), pickle.dumps, post)
    source.start()
    try:
        for _ in range(3):
            source.fetch(a_run(), 2, 8)
            source.bring()
        wait_until(lambda: any(one.ended for one in posted))
    finally:
        source.give_up()
    assert [one.ended for one in posted].index(True) == len(posted) - 1
    assert sum(len(chunk) for one in posted for chunk in one.chunks) == 3
    assert isinstance(posted[-1].error, ValueError) == fails

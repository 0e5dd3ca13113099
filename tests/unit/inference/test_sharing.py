"""Items shared among processes, here the only one: numbers go on from chunk to chunk."""

from nmt.inference import sharing
from nmt.runtime import distributed


def test_numbers_go_on_from_chunk_to_chunk_and_answers_keep_their_order():
    written = []

    def work(items, numbers):
        return [f"{number}:{item}" for number, item in zip(numbers, items, strict=True)]

    chunks = iter([["a", "b", "c"], ["d"], ["e", "f"]])
    sharing.run(distributed.Alone(), chunks, work, written.append)
    assert [answer for ready in written for answer in ready] == [
        "0:a", "1:b", "2:c", "3:d", "4:e", "5:f"
    ]  # fmt: skip


def test_a_chunk_is_written_before_the_next_one_is_waited_for():
    events = []

    def chunks():
        for name in ("a", "b"):
            events.append(f"read {name}")
            yield [name]
        events.append("read the end")

    sharing.run(
        distributed.Alone(), chunks(), lambda items, _: list(items), lambda r: events.extend(r)
    )
    assert events == ["read a", "a", "read b", "b", "read the end"]

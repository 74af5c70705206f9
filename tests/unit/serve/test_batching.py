"""Batches of the translation queue: what is translated together, whose turn it is, limits, errors and the end."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import replace

import pytest

from kdmt.serve.batching import ClientLimit, ModelStopped, QueueFull, TranslationQueue
from kdmt.serve.limits import Limits

LIMITS = Limits(batch_sentences=4, batch_seconds=0.0, queued_sentences=20, client_sentences=12)
TIMEOUT = 30  # seconds, far more than needed


class GatedModel:
    """Translate to upper case, a batch whenever the test allows it, and keep the batches."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.started = threading.Semaphore(0)
        self.gate = threading.Semaphore(0)

    def __call__(self, sentences: list[str]) -> list[str]:
        self.batches.append(sentences)
        self.started.release()
        assert self.gate.acquire(timeout=TIMEOUT)
        if "bad" in sentences:
            raise RuntimeError("bad")
        return [sentence.upper() for sentence in sentences]

    def open(self) -> None:
        self.gate.release(1_000)


@pytest.fixture
def model() -> GatedModel:
    return GatedModel()


@pytest.fixture
def queue(model: GatedModel) -> Iterator[TranslationQueue]:
    yield from busy_queue(model, LIMITS)


def busy_queue(model: GatedModel, limits: Limits) -> Iterator[TranslationQueue]:
    """Yield a queue whose thread is busy with the sentence `first`, so that what follows waits."""
    queue = TranslationQueue(model, limits)
    queue.submit(["first"], client="first")
    assert model.started.acquire(timeout=TIMEOUT)
    yield queue
    model.open()
    queue.close()


def result(future: Future[list[str]]) -> list[str]:
    return future.result(timeout=TIMEOUT)


def test_requests_that_wait_are_translated_together(model: GatedModel, queue: TranslationQueue) -> None:
    futures = [queue.submit([text], client=text) for text in ("a", "b", "c")]
    model.open()
    assert [result(future) for future in futures] == [["A"], ["B"], ["C"]]
    assert model.batches == [["first"], ["a", "b", "c"]]


def test_requests_within_the_waiting_time_are_translated_together() -> None:
    batches: list[list[str]] = []

    def translate(sentences: list[str]) -> list[str]:
        batches.append(sentences)
        return sentences

    queue = TranslationQueue(translate, replace(LIMITS, batch_seconds=TIMEOUT))
    futures = [queue.submit([str(number)]) for number in range(4)]  # a full batch does not wait
    assert [result(future) for future in futures] == [["0"], ["1"], ["2"], ["3"]]
    assert batches == [["0", "1", "2", "3"]]
    queue.close()


def test_clients_take_turns(model: GatedModel, queue: TranslationQueue) -> None:
    long = queue.submit([f"long {number}" for number in range(6)], client="long")
    short = queue.submit(["short 0", "short 1"], client="short")
    model.open()
    assert result(short) == ["SHORT 0", "SHORT 1"]
    assert result(long) == [f"LONG {number}" for number in range(6)]
    assert model.batches[1:] == [
        ["long 0", "short 0", "long 1", "short 1"],
        ["long 2", "long 3", "long 4", "long 5"],
    ]


def test_requests_of_a_client_take_turns(model: GatedModel, queue: TranslationQueue) -> None:
    long, short = queue.submit(["a 0", "a 1", "a 2", "a 3"]), queue.submit(["b 0"])
    model.open()
    assert result(short) == ["B 0"]
    assert result(long) == ["A 0", "A 1", "A 2", "A 3"]
    assert model.batches[1:] == [["a 0", "b 0", "a 1", "a 2"], ["a 3"]]


def test_long_sentences_make_small_batches(model: GatedModel) -> None:
    for queue in busy_queue(model, replace(LIMITS, batch_characters=10)):
        long = queue.submit(["a" * 9, "b" * 30, "c" * 9], client="long")
        short = queue.submit(["d", "e"], client="short")
        model.open()
        assert result(short) == ["D", "E"]
        assert result(long) == ["A" * 9, "B" * 30, "C" * 9]
    assert model.batches[1:] == [["a" * 9, "d"], ["b" * 30], ["e", "c" * 9]]


def test_a_full_queue_refuses_requests(model: GatedModel, queue: TranslationQueue) -> None:
    queue.submit(["text"] * 12, client="a")
    queue.submit(["text"] * 8, client="b")
    with pytest.raises(QueueFull):
        queue.submit(["text"], client="c")
    assert queue.length == 20
    model.open()


def test_a_client_has_a_limit_of_its_own(model: GatedModel, queue: TranslationQueue) -> None:
    first = queue.submit(["text"] * 12, client="a")
    with pytest.raises(ClientLimit):
        queue.submit(["text"], client="a")
    queue.submit(["text"], client="b")
    model.open()
    result(first)
    queue.submit(["text"] * 12, client="a")  # there is place again


def test_cancelled_requests_give_their_place_to_others(model: GatedModel, queue: TranslationQueue) -> None:
    cancelled = queue.submit(["text"] * 12, client="a")
    assert cancelled.cancel()
    assert queue.length == 0
    kept = queue.submit(["kept"] * 12, client="a")
    model.open()
    assert result(kept) == ["KEPT"] * 12
    assert all("text" not in batch for batch in model.batches)


def test_a_sentence_that_fails_fails_its_own_request_only(model: GatedModel, queue: TranslationQueue) -> None:
    bad, good = queue.submit(["good", "bad", "more"], client="a"), queue.submit(["fine"], client="b")
    model.open()
    assert result(good) == ["FINE"]
    with pytest.raises(RuntimeError, match="bad"):
        result(bad)
    assert result(queue.submit(["next"], client="a")) == ["NEXT"]


def test_closing_finishes_what_is_in_the_queue(model: GatedModel, queue: TranslationQueue) -> None:
    future = queue.submit(["a"] * 9)
    model.open()
    queue.close()
    assert future.done()
    assert result(future) == ["A"] * 9
    with pytest.raises(QueueFull):
        queue.submit(["late"])


def test_no_sentences_need_no_translation(queue: TranslationQueue) -> None:
    assert result(queue.submit([])) == []


def test_many_threads_get_their_own_translations() -> None:
    queue = TranslationQueue(lambda texts: [text[::-1] for text in texts], Limits())
    found: dict[int, list[str]] = {}

    def work(number: int) -> None:
        for part in range(20):
            texts = [f"{number}-{part}-{index}" for index in range(part % 4)]
            future = queue.submit(texts, client=str(number % 3))
            if part % 7 == 6 and future.cancel():
                continue
            assert future.result(timeout=TIMEOUT) == [text[::-1] for text in texts]
            found.setdefault(number, []).extend(texts)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    queue.close()
    assert len(found) == 8
    assert queue.length == 0


class Panic(BaseException):
    """Stand-in for the panic of a library in Rust, which is not an Exception."""


def test_a_panic_or_a_missing_translation_fails_a_request_and_not_the_queue() -> None:
    def translate(sentences: list[str]) -> list[str]:
        if "panic" in sentences:
            raise Panic("index out of range")
        return [sentence for sentence in sentences if sentence != "lost"]

    queue = TranslationQueue(translate, LIMITS)
    for sentence, message in (("panic", "Panic: index out of range"), ("lost", "the model returned 0 translations")):
        with pytest.raises(RuntimeError, match=message):
            result(queue.submit([sentence]))
    assert result(queue.submit(["next"])) == ["next"]
    queue.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_if_the_thread_ends_every_request_fails(model: GatedModel) -> None:
    batches: list[int] = []

    def observe(count: int) -> None:
        batches.append(count)
        if len(batches) == 2:
            raise Panic

    queue = TranslationQueue(model, LIMITS, observe=observe)
    first = queue.submit(["first"], client="first")
    assert model.started.acquire(timeout=TIMEOUT)
    waiting = [queue.submit(["a"] * 6, client="a"), queue.submit(["b"] * 5, client="b")]
    cancelled = queue.submit(["c"], client="c")
    cancelled.cancel()
    model.open()
    assert result(first) == ["FIRST"]
    for future in waiting:
        with pytest.raises(ModelStopped):
            result(future)
    with pytest.raises(ModelStopped):
        queue.submit(["late"])
    queue.close()
    assert not queue.is_alive

"""Limits of the server, so that no client can use up its memory or keep others waiting."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Limits on requests, connections and time.

    Attributes:
        body_bytes: maximum size of a request.
        characters: maximum number of characters of the texts of a request.
        texts: maximum number of texts of a request.
        queued_sentences: maximum number of sentences that wait for one model.
        client_sentences: maximum number of them that belong to one client.
        batch_sentences: maximum number of sentences that are translated together.
        batch_characters: number of characters at which a batch is full, so that nobody waits for many long sentences.
        batch_seconds: time that the first sentence of a batch waits for others.
        connections: maximum number of open connections.
        read_seconds: time in which a client must send the head of a request, and then its body.
        write_seconds: time for which a client may leave an answer unread.
        request_seconds: maximum time of a translation, with its time in the queue.
        keep_alive_seconds: time for which a connection stays open between requests.
    """

    body_bytes: int = 256 * 1024
    characters: int = 10_000
    texts: int = 1_000
    queued_sentences: int = 4096
    client_sentences: int = 1024
    batch_sentences: int = 64
    batch_characters: int = 8_000
    batch_seconds: float = 0.005
    connections: int = 4096
    read_seconds: float = 10.0
    write_seconds: float = 10.0
    request_seconds: float = 60.0
    keep_alive_seconds: int = 5

import json
import socket
import threading

import pytest

from qlora_kit import KitError
from qlora_kit.serve import ask, models

HELLO = [{"role": "user", "content": "hello"}]


def answering(*pieces):
    """A server for one request that sends these bytes and hangs up."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve():
        with listener, listener.accept()[0] as connection:
            connection.recv(65536)
            for piece in pieces:
                connection.sendall(piece)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(65536):  # closed with something unread, it would be a reset
                pass

    threading.Thread(target=serve, daemon=True).start()
    return f"http://127.0.0.1:{listener.getsockname()[1]}"


def event(**data):
    return f"data: {json.dumps(data)}\n\n".encode()


OK = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
PIECE = event(choices=[{"delta": {"content": "gray "}}])
END = event(choices=[{"delta": {}, "finish_reason": "stop"}], usage={"completion_tokens": 2})


def test_pieces_are_told_as_they_come_and_the_stop_is_no_token():
    said = []
    reply = ask(answering(OK, PIECE, PIECE, END), HELLO, say=said.append)
    assert (reply.text, reply.stopped, reply.tokens) == ("gray gray ", True, 1)
    assert said == ["gray ", "gray "]
    assert 0 < reply.first_token <= reply.seconds


@pytest.mark.parametrize(
    ("pieces", "said"),
    [
        ((OK, PIECE), "in the midst of an answer"),
        ((OK, PIECE, event(error={"message": "no room"})), "broke off: no room"),
        ((b"HTTP/1.1 404 Not Found\r\n\r\n" + b'{"error": {"message": "no x"}}',), "404.*no x"),
        ((b"HTTP/1.1 502 Bad Gateway\r\n\r\nproxy",), "502.*proxy"),
        ((b"nonsense\r\n\r\n",), "Nothing answers"),
        ((), "Nothing answers"),
    ],
)
def test_what_goes_wrong_is_one_sentence(pieces, said):
    with pytest.raises(KitError, match=said):
        ask(answering(*pieces), HELLO)


def test_where_nobody_listens_the_way_out_is_told():
    for url in ("http://127.0.0.1:1", "http://", "http://127.0.0.1:x"):
        with pytest.raises(KitError, match="Start it with 'qlora-kit serve"):
            models(url)

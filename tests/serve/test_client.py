import json
import socket
import threading

import pytest

from qlora_kit import KitError
from qlora_kit.serve import ask, client, models

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
CHUNKED = OK.replace(b"\r\n\r\n", b"\r\nTransfer-Encoding: chunked\r\n\r\n")
PIECE = event(choices=[{"delta": {"content": "gray "}}])
END = event(choices=[{"delta": {}, "finish_reason": "stop"}], usage={"completion_tokens": 2})


def test_pieces_come_one_by_one_and_the_stop_is_no_token():
    pieces = []
    reply = ask(answering(OK, PIECE, PIECE, END), HELLO, say=pieces.append)
    assert (reply.text, reply.stopped, reply.tokens) == ("gray gray ", True, 1)
    assert pieces == ["gray ", "gray "]
    assert 0 < reply.first_token <= reply.seconds


def test_only_line_feeds_end_a_line():
    text = "a\u2028b\x85c"  # line breaks of Unicode, which JSON may contain as they are
    piece = json.dumps({"choices": [{"delta": {"content": text}}]}, ensure_ascii=False)
    assert ask(answering(OK, f"data: {piece}\n\n".encode(), END), HELLO).text == text


def test_no_proxy_of_the_environment_is_asked(monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    client._http.cache_clear()
    assert ask(answering(OK, PIECE, END), HELLO).text == "gray "


@pytest.mark.parametrize(
    ("pieces", "message"),
    [
        ((OK, PIECE), "in the midst of an answer"),
        ((OK, PIECE, event(error={"message": "no room"})), "broke off: no room"),
        ((b"HTTP/1.1 404 Not Found\r\n\r\n" + b'{"error": {"message": "no x"}}',), "404.*no x"),
        ((b"HTTP/1.1 502 Bad Gateway\r\n\r\nproxy",), "502.*proxy"),
        ((b"nonsense\r\n\r\n",), "Nothing answers"),
        ((), "Nothing answers"),
        ((CHUNKED, b"40\r\n" + PIECE), "in the midst of an answer"),
        ((OK, b"data: {cut off\n\n"), "not JSON"),
        ((b"HTTP/1.1 307 Moved\r\nLocation: http://127.0.0.1:1\r\n\r\n",), "307"),
    ],
)
def test_what_goes_wrong_is_one_sentence(pieces, message):
    with pytest.raises(KitError, match=message):
        ask(answering(*pieces), HELLO)


def test_where_nobody_listens_the_message_names_the_way_out():
    for url in ("http://127.0.0.1:1", "http://", "http://127.0.0.1:x", "nonsense"):
        with pytest.raises(KitError, match="Start it with 'qlora-kit serve"):
            models(url)


def test_an_answer_that_is_not_json_is_one_sentence():
    with pytest.raises(KitError, match="not JSON"):
        models(answering(b"HTTP/1.1 200 OK\r\n\r\n<html>a page</html>"))

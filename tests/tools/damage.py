"""Damages bytes in the ways that disks, networks, editors and enemies do."""

import random
import struct
from collections.abc import Iterator

_NUMBERS = (0, 1, 2**31 - 1, 2**32 - 1, 2**63 - 1, 2**64 - 1, 10**9)
_WORDS = (b"null", b"NaN", b"-1", b"1e999", b"[]", b"{}", b'"', b"\\", b"\n", b"\0", b"\xff",
          b"\xed\xa0\xbd", b"[" * 2000, b"9" * 5000, b"&a [*a,*a]", b"!!python/name:os.system ",
          b"true", b",", b":", b"../", b"\r", b"\t")  # fmt: skip


def damaged(sound: bytes, count: int, seed: int = 0, where: int | None = None) -> Iterator[bytes]:
    """`count` damaged copies, one to three wounds each, in the first `where` bytes if given."""
    chance = random.Random(seed)
    for _ in range(count):
        body = bytearray(sound)
        for _ in range(chance.choice((1, 1, 1, 2, 3))):
            _wound(body, chance, min(where or len(body), len(body)))
        yield bytes(body)


def _wound(body: bytearray, chance: random.Random, room: int) -> None:
    if not room:
        body += chance.randbytes(4)
        return
    at, length = chance.randrange(room), chance.choice((1, 2, 4, 8, 30, 200))
    kind = chance.randrange(9)
    if kind == 0:
        body[at] ^= 1 << chance.randrange(8)
    elif kind == 1:
        body[at] = chance.choice((0, 255, 32, 48, chance.randrange(256)))
    elif kind == 2:
        del body[at:]
    elif kind == 3:
        del body[at : at + length]
    elif kind == 4:
        body[at:at] = body[at : at + length]
    elif kind == 5:
        body[at:at] = chance.choice(_WORDS)
    elif kind == 6:
        code = chance.choice(("<I", "<Q"))
        number = chance.choice(_NUMBERS) % 256 ** struct.calcsize(code)
        body[at : at + struct.calcsize(code)] = struct.pack(code, number)
    elif kind == 7:
        other = chance.randrange(room)
        body[at : at + length], body[other : other + length] = (
            body[other : other + length],
            body[at : at + length],
        )
    else:
        word = chance.choice(_WORDS)
        body[at : at + len(word)] = word

"""Damaged associations: what a broken sender, a bad cable or an attacker makes of a real one.

A real association is recorded once as its list of PDUs; each mutation is drawn from a seed, so that any stream can be
made again from its number.
"""

import struct
from collections.abc import Callable, Sequence
from random import Random

from benchmarks.raw_sender import ABORT, ASSOCIATE_RQ, P_DATA, RELEASE_RQ

#: Lengths that have broken readers: nothing, one off, the sign bit, nearly everything.
_HOSTILE_LENGTHS = (0, 1, 3, 5, 6, 0x7FFFFFFF, 0x80000000, 0xFFFFFFF0, 0xFFFFFFFF)

Pdus = list[bytearray]


def mutate(recorded: Sequence[bytes], random: Random) -> list[bytes]:
    """Return a damaged copy of an association, as the pieces to send.

    Parameters
    ----------
    recorded
        The PDUs of the sender, in order, the A-ASSOCIATE-RQ first.
    random
        Decides everything.
    """
    pdus = [bytearray(one) for one in recorded]
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        # A harmless beginning lets most mutations reach the data phase.
        where = 0 if random.random() < 0.2 or len(pdus) == 1 else random.randrange(1, len(pdus))
        random.choice(_MUTATIONS)(pdus, where, random)
        if not pdus:
            break
    return [bytes(one) for one in pdus if one]


def mutate_request(recorded: bytes, random: Random) -> bytes:
    """Return a damaged A-ASSOCIATE-RQ (PS3.8 9.3.2); most are whole by their length, so that what they say is read.

    Parameters
    ----------
    recorded
        An intact one.
    random
        Decides everything.
    """
    fixed, items = bytearray(recorded[6:74]), _split_items(recorded[74:])
    for _ in range(random.choice((1, 1, 2, 3))):
        random.choice(_REQUEST_MUTATIONS)(fixed, items, random)
    body = bytes(fixed) + b"".join(_join(kind, value) for kind, value in items)
    if random.random() < 0.3:
        damaged = bytearray(body)
        for _ in range(random.randint(1, 8)):
            damaged[random.randrange(len(damaged))] = random.randrange(256)
        body = bytes(damaged)
    length = len(body) if random.random() < 0.9 else max(0, len(body) + random.choice((-1, 1, -40, 400)))
    return struct.pack(">BBI", ASSOCIATE_RQ, 0, length) + body


Items = list[tuple[int, bytes]]


def _split_items(content: bytes) -> Items:
    found = []
    while content:
        length = int.from_bytes(content[2:4], "big")
        found.append((content[0], content[4 : 4 + length]))
        content = content[4 + length :]
    return found


def _join(kind: int, value: bytes) -> bytes:
    return struct.pack(">BBH", kind, 0, len(value)) + value


def _change_title(fixed: bytearray, _items: Items, random: Random) -> None:
    title = random.choice(
        (bytes(16), b" " * 16, random.randbytes(16), b"CT01".ljust(16, b"\0"), b"WETREAD".ljust(16, b"\0"))
    )
    at = random.choice((4, 20))
    fixed[at : at + 16] = title


def _change_version(fixed: bytearray, _items: Items, random: Random) -> None:
    fixed[0:2] = random.choice((b"\0\0", b"\0\2", b"\0\3", b"\xff\xff"))


def _drop_item(_fixed: bytearray, items: Items, random: Random) -> None:
    if items:
        del items[random.randrange(len(items))]


def _repeat_item(_fixed: bytearray, items: Items, random: Random) -> None:
    if items:
        items.insert(random.randrange(len(items)), random.choice(items))


def _add_unknown_item(_fixed: bytearray, items: Items, random: Random) -> None:
    unknown = (random.choice((0, 0x11, 0x5F, 0x7F, 0xFF)), random.randbytes(random.randint(0, 40)))
    inside = [number for number, (kind, _) in enumerate(items) if kind in {0x20, 0x50}]
    if inside and random.random() < 0.7:
        number = random.choice(inside)
        items[number] = (items[number][0], items[number][1] + _join(*unknown))
    else:
        items.insert(random.randrange(len(items) + 1), unknown)


def _change_context(_fixed: bytearray, items: Items, random: Random) -> None:
    # Identifier, or one of the names inside: gone, empty, too long, no UID, of another kind.
    contexts = [number for number, (kind, _) in enumerate(items) if kind == 0x20]
    if not contexts:
        return
    number = random.choice(contexts)
    head, inner = items[number][1][:4], _split_items(items[number][1][4:])
    if random.random() < 0.3:
        head = bytes((random.choice((0, 1, 2, 3, 254, 255)),)) + head[1:]
    elif inner:
        which = random.randrange(len(inner))
        kind = inner[which][0]
        values = (b"", b"\0", b"1.2.840.10008.1.2.1\0", b"9" * 65, b"1.02.3", random.randbytes(20), b"1.2.3")
        if random.random() < 0.3:
            del inner[which]
        else:
            inner[which] = (random.choice((kind, kind, kind, 0x30, 0x40, 0x41)), random.choice(values))
    items[number] = (0x20, head + b"".join(_join(*one) for one in inner))


def _change_user_item(_fixed: bytearray, items: Items, random: Random) -> None:
    for number, (kind, value) in enumerate(items):
        if kind == 0x50:
            inner = _split_items(value)
            added = (random.randrange(0x51, 0x5A), random.randbytes(random.randint(0, 40)))
            if inner and random.random() < 0.5:
                inner[random.randrange(len(inner))] = added
            else:
                inner.append(added)
            items[number] = (kind, b"".join(_join(*one) for one in inner))
            return


_REQUEST_MUTATIONS: tuple[Callable[[bytearray, Items, Random], None], ...] = (
    _change_title,
    _change_version,
    _drop_item,
    _repeat_item,
    _add_unknown_item,
    _change_context,
    _change_context,
    _change_user_item,
)


def _flip_bits(pdus: Pdus, where: int, random: Random) -> None:
    for _ in range(random.randint(1, 8)):
        if pdus[where]:
            # The first bytes steer; the pixels are only carried.
            position = min(int(random.expovariate(1 / 40)), len(pdus[where]) - 1)
            pdus[where][position] ^= 1 << random.randrange(8)


def _replace_bytes(pdus: Pdus, where: int, random: Random) -> None:
    position = random.randrange(len(pdus[where]) + 1)
    part = random.randbytes(random.randint(1, 64))
    pdus[where][position : position + len(part)] = part


def _insert_bytes(pdus: Pdus, where: int, random: Random) -> None:
    position = random.randrange(len(pdus[where]) + 1)
    pdus[where][position:position] = random.randbytes(random.randint(1, 64))


def _delete_bytes(pdus: Pdus, where: int, random: Random) -> None:
    position = random.randrange(len(pdus[where]) + 1)
    del pdus[where][position : position + random.randint(1, 64)]


def _cut_off(pdus: Pdus, where: int, random: Random) -> None:
    del pdus[where][random.randrange(len(pdus[where]) + 1) :]
    del pdus[where + 1 :]


def _drop(pdus: Pdus, where: int, _random: Random) -> None:
    del pdus[where]


def _repeat(pdus: Pdus, where: int, random: Random) -> None:
    for _ in range(random.randint(1, 3)):
        pdus.insert(where, bytearray(pdus[where]))


def _swap(pdus: Pdus, where: int, random: Random) -> None:
    other = random.randrange(len(pdus))
    pdus[where], pdus[other] = pdus[other], pdus[where]


def _change_type(pdus: Pdus, where: int, random: Random) -> None:
    if pdus[where]:
        pdus[where][0] = random.choice((0, 1, 2, 3, 4, 5, 6, 7, 8, 0x7F, 0xFF))


def _change_length(pdus: Pdus, where: int, random: Random) -> None:
    if len(pdus[where]) >= 6:
        length = int.from_bytes(pdus[where][2:6], "big")
        near = (length + random.choice((-7, -6, -1, 1, 6, 1000))) & 0xFFFFFFFF
        pdus[where][2:6] = struct.pack(">I", random.choice((*_HOSTILE_LENGTHS, near, near, near)))


def _change_fragment(pdus: Pdus, where: int, random: Random) -> None:
    # The header of the first presentation data value (PS3.8 9.3.5.1): length, context, control.
    one = pdus[where]
    if len(one) < 12 or one[0] != P_DATA:
        return
    choice = random.randrange(3)
    if choice == 0:
        length = int.from_bytes(one[6:10], "big")
        near = (length + random.choice((-2, -1, 1, 2))) & 0xFFFFFFFF
        one[6:10] = struct.pack(">I", random.choice((*_HOSTILE_LENGTHS, near, near)))
    elif choice == 1:
        one[10] = random.randrange(256)
    else:
        one[11] = random.choice((0, 1, 2, 3, 4, 0x80, 0xFF))


def _change_item_length(pdus: Pdus, where: int, random: Random) -> None:
    # Items of an association PDU begin after 74 bytes (PS3.8 9.3.2); command elements after 12 (PS3.7 6.3.1).
    one = pdus[where]
    position = 76 if one[:1] == bytes([ASSOCIATE_RQ]) else 16
    if len(one) > position + 2:
        one[position : position + 2] = random.choice((b"\0\0", b"\xff\xff", b"\x7f\xff", random.randbytes(2)))


def _refragment(pdus: Pdus, where: int, random: Random) -> None:
    # Legal, and rare: many tiny fragments, several of them in one PDU.
    one = pdus[where]
    if len(one) < 13 or one[0] != P_DATA:
        return
    context, control, content = one[10], one[11], bytes(one[12 : 12 + 4096])
    rest = bytes(one[12 + 4096 :])
    body = b""
    while content:
        size_bytes = random.choice((1, 2, 3, 100))
        part, content = content[:size_bytes], content[size_bytes:]
        flags = control if not content and not rest else control & 1
        body += struct.pack(">IBB", len(part) + 2, context, flags) + part
    if rest:
        body += struct.pack(">IBB", len(rest) + 2, context, control) + rest
    pdus[where] = bytearray(struct.pack(">BBI", P_DATA, 0, len(body)) + body)


def _interrupt(pdus: Pdus, where: int, random: Random) -> None:
    kind = random.choice((ABORT, RELEASE_RQ, 2, 3, 6, 0x42))
    pdus.insert(where, bytearray(struct.pack(">BBII", kind, 0, 4, 0)))


def _noise(pdus: Pdus, where: int, random: Random) -> None:
    pdus[where] = bytearray(random.randbytes(random.randint(1, 2000)))


_MUTATIONS: tuple[Callable[[Pdus, int, Random], None], ...] = (
    _flip_bits,
    _flip_bits,
    _replace_bytes,
    _insert_bytes,
    _delete_bytes,
    _cut_off,
    _cut_off,
    _drop,
    _repeat,
    _swap,
    _change_type,
    _change_length,
    _change_length,
    _change_fragment,
    _change_fragment,
    _change_item_length,
    _refragment,
    _interrupt,
    _noise,
)

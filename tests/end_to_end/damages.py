"""Ways to damage the bytes of a file, each a function of them and a generator."""


def cut(data, rng):
    return data[: rng.integers(len(data))]


def flip(data, rng):
    place = int(rng.integers(len(data)))
    return data[:place] + bytes([data[place] ^ (1 << int(rng.integers(8)))]) + data[place + 1 :]


def flip_at_the_front(data, rng):
    return flip(data[:96], rng) + data[96:]


def replaced(data, rng, content):
    """`content` of up to 32 bytes in place of as many."""
    place = int(rng.integers(len(data)))
    return data[:place] + content + data[place + len(content) :]


def noise(data, rng):
    return replaced(data, rng, rng.bytes(int(rng.integers(1, 32))))


def zeros(data, rng):
    return replaced(data, rng, bytes(int(rng.integers(1, 32))))


def large_numbers(data, rng):
    return replaced(data, rng, b"\xff" * int(rng.integers(2, 9)))


def digits(data, rng):
    return replaced(data, rng, b"9" * int(rng.integers(1, 9)))


def insert(data, rng):
    place = int(rng.integers(len(data)))
    return data[:place] + rng.bytes(int(rng.integers(1, 32))) + data[place:]


def remove(data, rng):
    place = int(rng.integers(len(data)))
    return data[:place] + data[place + int(rng.integers(1, 32)) :]


def repeat(data, rng):
    first, last = sorted(rng.integers(len(data) + 1, size=2))
    return data[:last] + data[first:]


def deep(data, rng):
    return bytes(rng.choice([b"[", b'{"a":', b"- "]) * 20_000)


def empty(data, rng):
    return b""


DAMAGES = (cut, flip, flip_at_the_front, noise, zeros, large_numbers, digits, insert, remove, repeat, deep, empty)

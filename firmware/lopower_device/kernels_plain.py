"""The kernels in plain Python: what runs where no native ones were compiled for, and what the native ones are held to.

Correct, slow, and not in constant time. State has the layout of the native kernels: words of 32 bits, field elements of
20 limbs of 13 bits, the hash state of Poly1305 in limbs of 13 bits.
"""

WORD = 0xFFFFFFFF
PRIME = (1 << 255) - 19
PRIME_1305 = (1 << 130) - 5
WINDOW_SIZE = 1984


def _word(data, offset):
    return int.from_bytes(bytes(data[offset : offset + 4]), "little")


def copy(to, to_offset, source, offset, length):
    to[to_offset : to_offset + length] = source[offset : offset + length]


def differ(one, one_offset, other, offset, length):
    d = 0
    for i in range(length):
        d |= one[one_offset + i] ^ other[offset + i]
    return d


def checksum_add(data, offset, length, total):
    """One's complement sum of 16-bit little-endian words, folded to 16 bits (RFC 1071 section 2 (B): any byte order)."""
    for i in range(offset, offset + length - 1, 2):
        total += data[i] | data[i + 1] << 8
    if length & 1:
        total += data[offset + length - 1]
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def sequence_difference(packet, offset, words, index):
    """The big-endian word at `offset` minus `words[index]`, modulo 2^32, signed, and held within 28 bits."""
    d = (int.from_bytes(bytes(packet[offset : offset + 4]), "big") - words[index]) & WORD
    if d & 0x80000000:
        d -= 1 << 32
    return max(min(d, 0xFFFFFFF), -0x10000000)


def add_word(words, index, value):
    words[index] = (words[index] + value) & WORD


def put_word(packet, offset, words, index, value):
    packet[offset : offset + 4] = ((words[index] + value) & WORD).to_bytes(4, "big")


def load_word(packet, offset, words, index, value):
    words[index] = (int.from_bytes(bytes(packet[offset : offset + 4]), "big") + value) & WORD


def message_type(packet):
    t = _word(packet, 0)
    return t if t <= 4 else 0


def same_word(packet, at, words, index):
    return 1 if _word(packet, 4 * at) == words[index] else 0


def data_header(packet, words):
    """The header of a data message; the counter `words[0:2]` moves on. Not 0 once it has reached 2^60."""
    for at, word in enumerate((4, words[2], words[0], words[1])):
        packet[4 * at : 4 * at + 4] = word.to_bytes(4, "little")
    words[0] = (words[0] + 1) & WORD
    if words[0] == 0:
        words[1] += 1
    return words[1] >> 28


def replay_accept(window, packet):
    """RFC 6479 with a window of 1984: whether the counter of an authenticated message is fresh; if so, it no longer is.

    `window`: greatest counter in two halves, whether there is one, a word of scratch, 64 words of bits.
    """
    counter = _word(packet, 8) | _word(packet, 12) << 32
    greatest = window[0] | window[1] << 32
    if not window[2] or counter > greatest:
        ahead = min((counter >> 5) - (greatest >> 5), 64) if window[2] else 64
        for i in range(1, ahead + 1):
            window[4 + ((greatest >> 5) + i & 63)] = 0
        window[0], window[1], window[2] = counter & WORD, counter >> 32, 1
    elif greatest - counter > WINDOW_SIZE:
        return 0
    place = 4 + (counter >> 5 & 63)
    bit = 1 << (counter & 31)
    if window[place] & bit:
        return 0
    window[place] |= bit
    return 1


def chacha20_start(state, block, packet):
    state[28] = state[29] = 0
    state[30] = _word(packet, 8)
    state[31] = _word(packet, 12)
    for i in range(16):
        block[i] = 0


def _mix(x, a, b, c, d, one, two, first, second):
    """RFC 8439 section 2.1, and one half of RFC 7693's G."""
    x[a] = (x[a] + x[b] + one) & WORD
    t = x[d] ^ x[a]
    x[d] = (t << first | t >> (32 - first)) & WORD
    x[c] = (x[c] + x[d] + two) & WORD
    t = x[b] ^ x[c]
    x[b] = (t << second | t >> (32 - second)) & WORD


_MIXES = (
    (0, 4, 8, 12),
    (1, 5, 9, 13),
    (2, 6, 10, 14),
    (3, 7, 11, 15),
    (0, 5, 10, 15),
    (1, 6, 11, 12),
    (2, 7, 8, 13),
    (3, 4, 9, 14),
)


def chacha20_xor(x, _, data, offset, blocks):
    words = not isinstance(data, (bytearray, memoryview))  # an array of words
    for block in range(blocks):
        for i in range(16):
            x[i] = x[16 + i]
        for _ in range(10):
            for a, b, c, d in _MIXES:
                _mix(x, a, b, c, d, 0, 0, 16, 12)
                _mix(x, a, b, c, d, 0, 0, 8, 7)
        for i in range(16):
            key = (x[i] + x[16 + i]) & WORD
            if words:
                data[i] ^= key
            else:
                at = offset + 64 * block + 4 * i
                data[at : at + 4] = (_word(data, at) ^ key).to_bytes(4, "little")
        x[28] = (x[28] + 1) & WORD


def _limbs(state, first, count):
    return sum(state[first + i] << 13 * i for i in range(count))


def poly1305_start(state, block):
    r = sum(block[i] << 32 * i for i in range(4)) & 0x0FFFFFFC0FFFFFFC0FFFFFFC0FFFFFFF
    for i in range(10):
        state[i] = 0
        state[10 + i] = r >> 13 * i & 0x1FFF


def poly1305_blocks(state, _, data, offset, blocks, high):
    h = _limbs(state, 0, 10)
    r = _limbs(state, 10, 10)
    for at in range(offset, offset + 16 * blocks, 16):
        h = (h + int.from_bytes(bytes(data[at : at + 16]), "little") + (high << 117)) * r % PRIME_1305
    for i in range(10):
        state[i] = h >> 13 * i & 0x1FFF


def poly1305_finish(state, block, tag):
    h = _limbs(state, 0, 10) % PRIME_1305 + sum(block[4 + i] << 32 * i for i in range(4))
    tag[:] = (h & (1 << 128) - 1).to_bytes(16, "little")


def blake2s_start(work, state, block, vector, length, last):
    for i in range(8):
        work[i] = state[i]
        work[8 + i] = vector[i]
    work[12] ^= length
    work[14] ^= last & WORD
    for i in range(16):
        work[16 + i] = _word(block, 4 * i)


def blake2s_rounds(x, _, order):
    k = 0
    for _ in range(10):
        for a, b, c, d in _MIXES:
            _mix(x, a, b, c, d, x[order[k]], 0, 16, 20)
            _mix(x, a, b, c, d, x[order[k + 1]], 0, 24, 25)
            k += 2


def blake2s_finish(work, state):
    for i in range(8):
        state[i] ^= work[i] ^ work[8 + i]


def _store(element, value):
    value %= PRIME
    for i in range(20):
        element[i] = value >> 13 * i & 0x1FFF


def field_unpack(data, element):
    _store(element, int.from_bytes(bytes(data), "little") & (1 << 255) - 1)


def field_pack(element, data):
    data[:] = (_limbs(element, 0, 20) % PRIME).to_bytes(32, "little")


def field_multiply(_, __, a, b, o):
    _store(o, _limbs(a, 0, 20) * _limbs(b, 0, 20))


def field_square(_, __, a, o):
    value = _limbs(a, 0, 20)
    _store(o, value * value)


def field_add(a, _, b, o):
    _store(o, _limbs(a, 0, 20) + _limbs(b, 0, 20))


def field_subtract(a, _, b, o):
    _store(o, _limbs(a, 0, 20) - _limbs(b, 0, 20) + PRIME)


def field_multiply_add(a, _, b, o):
    _store(o, _limbs(b, 0, 20) + 121665 * _limbs(a, 0, 20))


def conditional_swap(points, _, scalar, position):
    bit = scalar[position >> 3] >> (position & 7)
    above = scalar[(position + 1) >> 3] >> ((position + 1) & 7) if position < 254 else 0
    if (bit ^ above) & 1:
        for i in range(40):
            points[i], points[40 + i] = points[40 + i], points[i]

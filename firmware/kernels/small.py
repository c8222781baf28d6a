# Kernels short enough to be written by hand; `generate.py` puts the unrolled ones after them.
#
# Viper computes in machine words, 32 bits on a board and 64 on a PC, so everything here is right on both: a value that
# must wrap at 32 bits goes through a ptr32 (a store truncates, a load extends with zeros), what is shifted right is cast
# to uint first, and no constant needs more than 30 bits. What is returned to Python fits in 30 bits.
# Branches and addresses depend on lengths, positions and counters alone, never on keys or contents.
import micropython


@micropython.viper
def copy(to: ptr8, to_offset: int, source: ptr8, offset: int, length: int):
    d = int(to) + to_offset
    s = int(source) + offset
    if (d | s) & 3 == 0:
        d32 = ptr32(d)
        s32 = ptr32(s)
        words = length >> 2
        i = 0
        while i < words:
            d32[i] = s32[i]
            i += 1
        d += words << 2
        s += words << 2
        length &= 3
    d8 = ptr8(d)
    s8 = ptr8(s)
    i = 0
    while i < length:
        d8[i] = s8[i]
        i += 1


@micropython.viper
def differ(one: ptr8, one_offset: int, other: ptr8, offset: int, length: int) -> int:
    d = 0
    i = 0
    while i < length:
        d |= one[one_offset + i] ^ other[offset + i]
        i += 1
    return d


@micropython.viper
def checksum_add(data: ptr8, offset: int, length: int, total: int) -> int:
    words = ptr16(int(data) + offset)
    n = length >> 1
    i = 0
    while i < n:
        total += words[i]
        i += 1
        if i & 0x1FFF == 0:
            total = (total & 0xFFFF) + (total >> 16)
    if length & 1:
        total += data[offset + length - 1]
    total = (total & 0xFFFF) + (total >> 16)
    return (total & 0xFFFF) + (total >> 16)


@micropython.viper
def sequence_difference(packet: ptr8, offset: int, words: ptr32, index: int) -> int:
    base = uint(words[index])
    low = ((packet[offset + 2] << 8) | packet[offset + 3]) - int(base & 0xFFFF)
    high = ((packet[offset] << 8) | packet[offset + 1]) - (int(base >> 16) & 0xFFFF) + (low >> 16)
    low &= 0xFFFF
    high &= 0xFFFF
    if high > 0x7FFF:
        high -= 0x10000
    if high > 0xFFF:
        return 0xFFFFFFF
    if high < -0x1000:
        return -0x10000000
    return high * 0x10000 + low


@micropython.viper
def add_word(words: ptr32, index: int, value: int):
    words[index] = words[index] + value


@micropython.viper
def put_word(packet: ptr8, offset: int, words: ptr32, index: int, value: int):
    v = uint(words[index] + value)
    packet[offset] = v >> 24
    packet[offset + 1] = v >> 16
    packet[offset + 2] = v >> 8
    packet[offset + 3] = v


@micropython.viper
def load_word(packet: ptr8, offset: int, words: ptr32, index: int, value: int):
    words[index] = (
        packet[offset] << 24 | packet[offset + 1] << 16 | packet[offset + 2] << 8 | packet[offset + 3]
    ) + value


@micropython.viper
def message_type(packet: ptr32) -> int:
    t = uint(packet[0])
    if t > uint(4):
        return 0
    return int(t)


@micropython.viper
def same_word(packet: ptr32, at: int, words: ptr32, index: int) -> int:
    return 1 if packet[at] == words[index] else 0


@micropython.viper
def data_header(packet: ptr32, words: ptr32) -> int:
    packet[0] = 4
    packet[1] = words[2]
    packet[2] = words[0]
    packet[3] = words[1]
    words[0] = words[0] + 1
    if words[0] == 0:
        words[1] = words[1] + 1
    return int(uint(words[1]) >> 28)


@micropython.viper
def replay_accept(window: ptr32, packet: ptr32) -> int:
    low = uint(packet[2])
    high = uint(packet[3])
    greatest = uint(window[0])
    greatest_high = uint(window[1])
    ahead = 0
    if window[2] == 0:
        window[2] = 1
        ahead = 64
    elif high > greatest_high:
        ahead = 64
        if high == greatest_high + uint(1):
            # 2^27 words of 32 counters lie in the range of a low half
            ahead = int(low >> 5) + 0x8000000 - int(greatest >> 5)
    elif high == greatest_high:
        if low > greatest:
            ahead = int(low >> 5) - int(greatest >> 5)
            if ahead == 0:
                window[0] = low
    else:
        if high + uint(1) != greatest_high:
            return 0
        if greatest >= low:
            return 0
    if ahead > 0:
        if ahead > 64:
            ahead = 64
        i = 1
        while i <= ahead:
            window[4 + (int(greatest >> 5) + i & 63)] = 0
            i += 1
        window[0] = low
        window[1] = high
    window[3] = uint(window[0]) - low
    if uint(window[3]) > uint(1984):
        return 0
    place = 4 + (int(low >> 5) & 63)
    bit = uint(1) << (low & uint(31))
    if uint(window[place]) & bit != uint(0):
        return 0
    window[place] = uint(window[place]) | bit
    return 1


@micropython.viper
def chacha20_start(state: ptr32, block: ptr32, packet: ptr32):
    state[28] = 0
    state[29] = 0
    state[30] = packet[2]
    state[31] = packet[3]
    i = 0
    while i < 16:
        block[i] = 0
        i += 1


@micropython.viper
def poly1305_start(state: ptr32, block: ptr16):
    # r is clamped while it is cut into limbs of 13 bits (RFC 8439 section 2.5)
    t0 = uint(block[0])
    t1 = uint(block[1])
    t2 = uint(block[2])
    t3 = uint(block[3])
    t4 = uint(block[4])
    t5 = uint(block[5])
    t6 = uint(block[6])
    t7 = uint(block[7])
    state[10] = t0 & 0x1FFF
    state[11] = ((t0 >> 13) | (t1 << 3)) & 0x1FFF
    state[12] = ((t1 >> 10) | (t2 << 6)) & 0x1F03
    state[13] = ((t2 >> 7) | (t3 << 9)) & 0x1FFF
    state[14] = ((t3 >> 4) | (t4 << 12)) & 0x00FF
    state[15] = (t4 >> 1) & 0x1FFE
    state[16] = ((t4 >> 14) | (t5 << 2)) & 0x1FFF
    state[17] = ((t5 >> 11) | (t6 << 5)) & 0x1F81
    state[18] = ((t6 >> 8) | (t7 << 8)) & 0x1FFF
    state[19] = (t7 >> 5) & 0x007F
    i = 0
    while i < 10:
        state[i] = 0
        state[20 + i] = 5 * state[10 + i]
        i += 1


@micropython.viper
def poly1305_finish(state: ptr32, block: ptr16, tag: ptr16):
    # Carry fully, then add 5: the sum reaches 2^130 exactly if h >= p, and a mask chooses without a branch.
    t = uint(0)
    rounds = 0
    while rounds < 2:
        i = 0
        while i < 10:
            t = t + uint(state[i])
            state[i] = t & uint(0x1FFF)
            t = t >> 13
            i += 1
        t = t * uint(5)
        rounds += 1
    state[0] = uint(state[0]) + t
    t = uint(5)
    i = 0
    while i < 10:
        t = t + uint(state[i])
        state[30 + i] = t & uint(0x1FFF)
        t = t >> 13
        i += 1
    mask = uint(0) - t
    i = 0
    while i < 10:
        state[i] = (uint(state[30 + i]) & mask) | (uint(state[i]) & ~mask)
        i += 1
    bits = 0
    n = 0
    t = uint(0)
    carry = uint(0)
    i = 0
    while n < 8:
        t = t | (uint(state[i]) << bits)
        bits += 13
        i += 1
        if bits > 15:
            carry = carry + (t & uint(0xFFFF)) + uint(block[8 + n])
            tag[n] = carry
            carry = carry >> 16
            t = t >> 16
            bits -= 16
            n += 1


@micropython.viper
def blake2s_start(work: ptr32, state: ptr32, block: ptr8, vector: ptr32, length: int, last: int):
    # `work`: v and m of RFC 7693's F; `length` is t (a message here never reaches 2^30 bytes); `last` is 0 or -1
    i = 0
    while i < 8:
        work[i] = state[i]
        work[8 + i] = vector[i]
        i += 1
    work[12] = work[12] ^ length
    work[14] = work[14] ^ last
    i = 0
    while i < 16:
        j = i << 2
        work[16 + i] = block[j] | (block[j + 1] << 8) | (block[j + 2] << 16) | (block[j + 3] << 24)
        i += 1


@micropython.viper
def blake2s_finish(work: ptr32, state: ptr32):
    i = 0
    while i < 8:
        state[i] = state[i] ^ work[i] ^ work[8 + i]
        i += 1


@micropython.viper
def field_unpack(data: ptr8, element: ptr32):
    # 32 bytes, little-endian, to 20 limbs of 13 bits; bit 255 is ignored (RFC 7748 section 5)
    t = uint(0)
    bits = 0
    i = 0
    n = 0
    while n < 20:
        if bits < 13:
            while bits < 13:
                if i < 31:
                    t = t | (uint(data[i]) << bits)
                elif i == 31:
                    t = t | (uint(data[31] & 127) << bits)
                i += 1
                bits += 8
        element[n] = t & uint(0x1FFF)
        t = t >> 13
        bits -= 13
        n += 1


@micropython.viper
def field_pack(element: ptr32, data: ptr8):
    t = uint(0)
    rounds = 0
    while rounds < 2:
        i = 0
        while i < 20:
            t = t + uint(element[i])
            element[i] = t & uint(0x1FFF)
            t = t >> 13
            i += 1
        t = t * uint(608)
        rounds += 1
    element[0] = uint(element[0]) + t
    # bits from 255 on are worth 19 each; afterwards the value lies below 2^255 + 2^13
    t = uint(element[19]) >> 8
    element[19] = uint(element[19]) & uint(0xFF)
    t = t * uint(19)
    i = 0
    while i < 20:
        t = t + uint(element[i])
        element[i] = t & uint(0x1FFF)
        t = t >> 13
        i += 1
    # value + 19 reaches 2^255 exactly if value >= p: then that 19 stays, and bit 255 goes
    t = uint(19)
    i = 0
    while i < 19:
        t = (t + uint(element[i])) >> 13
        i += 1
    t = ((t + uint(element[19])) >> 8) * uint(19)
    i = 0
    while i < 20:
        t = t + uint(element[i])
        element[i] = t & uint(0x1FFF)
        t = t >> 13
        i += 1
    element[19] = uint(element[19]) & uint(0xFF)
    t = uint(0)
    bits = 0
    i = 0
    n = 0
    while n < 32:
        while bits < 8:
            if i < 20:
                t = t | (uint(element[i]) << bits)
            i += 1
            bits += 13
        data[n] = t
        t = t >> 8
        bits -= 8
        n += 1

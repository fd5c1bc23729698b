#include "packet.h"

#ifdef __AVR__
#include <util/crc16.h>
static uint16_t crc_step(uint16_t crc, uint8_t byte) { return _crc_xmodem_update(crc, byte); }
#else
static uint16_t crc_step(uint16_t crc, uint8_t byte) {  // what _crc_xmodem_update does, by its documentation
    crc ^= static_cast<uint16_t>(byte << 8);
    for (int bit = 0; bit < 8; ++bit) crc = static_cast<uint16_t>(crc & 0x8000 ? crc << 1 ^ 0x1021 : crc << 1);
    return crc;
}
#endif

uint16_t crc16(const uint8_t* bytes, uint8_t count) {
    uint16_t crc = 0xFFFF;
    while (count--) crc = crc_step(crc, *bytes++);
    return crc;
}

// ---------------------------------------------------------------- from the host

constexpr uint8_t around_payload = 7;  // kind, id, CRC

static int8_t payload_length(uint8_t kind) {  // -1: no such kind
    switch (kind) {
        case HELLO_QUERY:
        case SAFE:
        case STATUS_QUERY: return 0;
        case LEASE: return 8;
        case VALVE: return 12;
        case LED: return 13;
        default: return -1;
    }
}

bool Receiver::take(uint8_t byte) {
    if (byte) {
        if (count_ < max_packet)
            bytes_[count_++] = byte;
        else
            overlong_ = true;
        return false;
    }
    if (!count_) return false;  // two 0x00 in a row are no packet and no mistake
    const bool good = !overlong_ && decode();
    if (!good && rejected_ < 0xFFFF) ++rejected_;
    count_ = 0;
    overlong_ = false;
    return good;
}

bool Receiver::decode() {
    uint8_t raw = 0;  // decoded bytes; they never overtake the encoded ones
    for (uint8_t at = 0; at < count_;) {
        const uint16_t next = at + bytes_[at];  // where the next distance stands, or the end
        if (next > count_) return false;
        while (++at < next) bytes_[raw++] = bytes_[at];
        if (at < count_) bytes_[raw++] = 0;
    }
    if (raw < around_payload || payload_length(kind()) != raw - around_payload) return false;
    return crc16(bytes_, raw - 2) == u16(raw - 2);
}

// ---------------------------------------------------------------- to the host

void Outbox::send(Packet& packet) {
    packet.u16(crc16(packet.bytes_, packet.count_));
    if (size - static_cast<uint8_t>(head_ - tail_) < packet.count_ + 2) return;
    uint8_t distance_at = head_++, distance = 1;
    for (uint8_t at = 0; at < packet.count_; ++at) {
        const uint8_t byte = packet.bytes_[at];
        if (byte) {
            ring_[head_++ & mask] = byte;
            ++distance;
        } else {
            ring_[distance_at & mask] = distance;
            distance_at = head_++;
            distance = 1;
        }
    }
    ring_[distance_at & mask] = distance;
    ring_[head_++ & mask] = 0;
}

// Packets of docs/protocol-serial.md as bytes: kind u8, id u32, payload, CRC u16, COBS-encoded, ended by one 0x00.
// Pure C++: no clock, no pins, no Arduino.
#pragma once
#include <stdint.h>

enum Kind : uint8_t {
    HELLO_QUERY = 0x01,
    LEASE = 0x02,
    VALVE = 0x03,
    LED = 0x04,
    SAFE = 0x05,
    STATUS_QUERY = 0x06,
    HELLO_REPLY = 0x81,
    ACK = 0x82,
    PULSE_DONE = 0x83,
    LICK = 0x84,
    WHEEL = 0x85,
    STATUS = 0x86,
};

constexpr uint8_t max_packet = 64;   // bytes between two 0x00; anything longer is damage
constexpr uint8_t longest_raw = 38;  // the hello reply, its CRC included

// Bytes from the host -> packets, one at a time. Whatever is wrong is counted and nothing else.
class Receiver {
  public:
    bool take(uint8_t byte);  // true: this byte completed a packet; it can be read until the next call

    uint8_t kind() const { return bytes_[0]; }
    uint32_t id() const { return u32(1); }
    uint8_t payload_u8(uint8_t at) const { return bytes_[5 + at]; }
    uint16_t payload_u16(uint8_t at) const { return u16(5 + at); }
    uint32_t payload_u32(uint8_t at) const { return u32(5 + at); }

    uint16_t rejected() const { return rejected_; }  // stays at 65535

  private:
    bool decode();  // in place; true for a packet of a known kind, whole and of the right length
    uint16_t u16(uint8_t at) const { return bytes_[at] | static_cast<uint16_t>(bytes_[at + 1]) << 8; }
    uint32_t u32(uint8_t at) const { return u16(at) | static_cast<uint32_t>(u16(at + 2)) << 16; }

    uint8_t bytes_[max_packet];
    uint8_t count_ = 0;
    bool overlong_ = false;
    uint16_t rejected_ = 0;
};

// A packet on its way to the host.
class Packet {
  public:
    Packet(Kind kind, uint32_t id) {
        u8(kind);
        u32(id);
    }
    Packet& u8(uint8_t value) {
        bytes_[count_++] = value;
        return *this;
    }
    Packet& u16(uint16_t value) { return u8(static_cast<uint8_t>(value)).u8(static_cast<uint8_t>(value >> 8)); }
    Packet& u32(uint32_t value) {
        return u16(static_cast<uint16_t>(value)).u16(static_cast<uint16_t>(value >> 16));
    }
    Packet& text(const char* text, uint8_t places) {  // filled up with 0x00
        for (; places; --places) u8(static_cast<uint8_t>(*text ? *text++ : 0));
        return *this;
    }

  private:
    friend class Outbox;
    uint8_t bytes_[longest_raw];
    uint8_t count_ = 0;
};

// Bytes that wait for the line. A packet that does not fit is dropped whole: sending never waits.
class Outbox {
  public:
    void send(Packet& packet);
    bool empty() const { return head_ == tail_; }
    uint8_t pop() { return ring_[tail_++ & mask]; }

  private:
    static constexpr uint8_t size = 128, mask = size - 1;
    uint8_t ring_[size];
    uint8_t head_ = 0, tail_ = 0;  // count on through 255; their difference is what waits
};

uint16_t crc16(const uint8_t* bytes, uint8_t count);  // CRC-16/CCITT-FALSE

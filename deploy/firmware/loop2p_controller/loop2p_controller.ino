// Reward valve, LED, licks and wheel of a loop2p rig, on an Arduino Uno. See docs/protocol-serial.md for what is said
// on the line, limits.h for what is enforced, board.cpp for the pins.
#include <avr/eeprom.h>

#include "sketch.h"

Controller controller;

// A number that no boot had before. The highest byte is written first: if the supply fails in between, the number
// found at the next boot is too high, never one that was used.
static uint32_t next_boot_id() {
    const uint32_t id = eeprom_read_dword(0) + 1;
    for (uint8_t at = 4; at--;) eeprom_update_byte(reinterpret_cast<uint8_t*>(at), static_cast<uint8_t>(id >> 8 * at));
    return id;
}

void setup() {
    Serial.begin(115200);
    controller.begin(next_boot_id(), wheel_a(), wheel_b());
    board_begin();
}

void loop() {
    board_alive();
    while (Serial.available() && !controller.take(static_cast<uint8_t>(Serial.read()))) {  // one packet a turn
    }
    controller.poll();
    while (!controller.out.empty() && Serial.availableForWrite()) Serial.write(controller.out.pop());
}

// What this controller enforces whatever the host says. Change a number here, build and flash; hello reports all of
// them, and the host holds the stricter of these and its own. The stand-in's are the same (FirmwareLimits).
#pragma once
#include <stdint.h>

namespace limits {

constexpr uint16_t lease_ms = 200;           // longest lease granted: from the last word of the host to pins low
constexpr uint16_t ahead_ms = 1000;          // what says it is good for longer is from before the clock's last turn
constexpr uint16_t max_open_ms = 250;        // one opening of the valve
constexpr uint32_t ration_open_ms = 30000;   // open time in 12 hours
constexpr uint16_t led_duty_permille = 200;  // 6 ms of each 32.3 ms frame are 186 (docs/experiment.md 4.5)
constexpr uint16_t led_window_ms = 100;      // the LED may borrow duty x window of on time: its longest pulse, too
constexpr uint16_t lick_debounce_ms = 50;    // rises this soon after the last counted lick are contact noise
constexpr uint16_t wheel_every_ms = 20;      // 50 Hz

constexpr uint32_t lease_us = 1000ul * lease_ms;
constexpr uint32_t ahead_us = 1000ul * ahead_ms;
constexpr uint32_t max_open_us = 1000ul * max_open_ms;
constexpr uint32_t ration_open_us = 1000ul * ration_open_ms;
constexpr uint32_t led_longest_us = 1ul * led_duty_permille * led_window_ms;

static_assert(lease_ms <= 200, "docs/protocol-serial.md: a lease is at most 200 ms");
static_assert(max_open_ms <= 260 && led_longest_us <= 260000, "the timer of the pulses counts to 262 ms");
static_assert(ration_open_ms <= 400000, "the ration is counted in 32 bits");
static_assert(led_duty_permille <= 1000 && led_longest_us <= 4000000, "LED credit is counted in 32 bits");

}  // namespace limits

// All that the controller needs of the board it runs on. board.cpp is the Arduino Uno's.
#pragma once
#include <stdint.h>

namespace board {

uint32_t now_us();  // wraps after 71.6 minutes

// Each raises its pin and starts its timer, which calls Controller::valve_time_is_up or led_time_is_up.
// Call them with interrupts off. At most 262 ms.
void valve_on(uint32_t for_us);
void led_on(uint32_t for_us);
void valve_off();
void led_off();

// No interrupt comes while one of these lives: for whatever main loop and interrupts share.
class Quiet {
  public:
    Quiet();
    ~Quiet();

  private:
    uint8_t before_;
};

}  // namespace board

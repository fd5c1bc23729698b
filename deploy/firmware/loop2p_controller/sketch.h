// What the sketch and its board share.
#pragma once
#include "controller.h"

extern Controller controller;

void board_begin();  // timers, interrupts, watchdog: from here on everything runs
void board_alive();  // once each turn of the main loop, or the watchdog resets the board within 60 ms: pins low
bool wheel_a();
bool wheel_b();

// The controller's pure part (controller.cpp, packet.cpp) on this computer, in time that the caller gives: hours in a
// moment, and any bytes at all. Built by the tests as a shared library.
#include "../loop2p_controller/board.h"

#include <algorithm>
#include <cstring>

#include "../loop2p_controller/controller.h"

namespace {

constexpr uint64_t never = ~0ull;
constexpr uint64_t tick_us = 500, idle_tick_us = 10000;
constexpr uint64_t idle_after_us = 1000000;  // of silence: no lease lives that long, nothing is on

struct Edge {
    uint64_t t_us;
    uint8_t pin, level;  // pin 0: valve, 1: LED
};

uint64_t now, zero;                // zero: when the controller's own clock was 0
uint64_t heard, next_tick, up[2];  // heard: the last byte; up: when each pin's timer is due
bool high[2];
Edge edges[1 << 16];
uint32_t n_edges;
Controller controller;

void set(uint8_t pin, bool level) {
    if (high[pin] != level && n_edges < sizeof edges / sizeof *edges) edges[n_edges++] = {now, pin, level};
    high[pin] = level;
}

void advance(uint64_t to) {
    while (true) {
        const uint64_t due = std::min({next_tick, up[0], up[1]});
        if (due > to) break;
        now = due;
        if (due == up[0]) {
            controller.valve_time_is_up();
        } else if (due == up[1]) {
            controller.led_time_is_up();
        } else {
            controller.guard();
            next_tick = now + (now - heard < idle_after_us ? tick_us : idle_tick_us);
        }
        controller.poll();
    }
    now = to;
    controller.poll();
}

}  // namespace

namespace board {
uint32_t now_us() { return static_cast<uint32_t>(now - zero); }
void valve_on(uint32_t for_us) { set(0, true), up[0] = now + for_us; }
void led_on(uint32_t for_us) { set(1, true), up[1] = now + for_us; }
void valve_off() { set(0, false), up[0] = never; }
void led_off() { set(1, false), up[1] = never; }
Quiet::Quiet() : before_(0) {}
Quiet::~Quiet() {}
}  // namespace board

extern "C" {

void boot(uint32_t boot_id, uint64_t at_us, uint64_t zero_us) {
    now = heard = at_us;
    zero = zero_us;
    set(0, false), set(1, false);
    up[0] = up[1] = never;
    next_tick = now + tick_us;
    controller = Controller();
    controller.begin(boot_id, false, false);
}

void run(uint64_t us) { advance(now + us); }

uint64_t time_us() { return now; }

void host(const uint8_t* bytes, uint32_t count) {
    heard = now;
    if (next_tick > now + tick_us) next_tick = now + tick_us;
    while (count--) {
        controller.take(*bytes++);
        controller.poll();
    }
}

void frame() { controller.frame_trigger(), controller.poll(); }
void lick() { controller.lick(), controller.poll(); }
void wheel(uint8_t a, uint8_t b) { controller.wheel(a, b); }

uint32_t said(uint8_t* into, uint32_t room) {
    uint32_t count = 0;
    while (!controller.out.empty() && count < room) into[count++] = controller.out.pop();
    return count;
}

uint32_t take_edges(Edge* into, uint32_t room) {
    const uint32_t count = n_edges < room ? n_edges : room;
    std::memcpy(into, edges, count * sizeof *into);
    n_edges = 0;
    return count;
}

}  // extern "C"

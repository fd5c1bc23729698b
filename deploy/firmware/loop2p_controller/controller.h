// What docs/protocol-serial.md demands of a controller: it trusts the host in nothing. Silence, nonsense, repetition
// and restarts all end with the valve closed and the LED off. Pure C++ on top of board.h: no registers, no Arduino.
#pragma once
#include <stdint.h>

#include "limits.h"
#include "packet.h"

enum Code : uint8_t { OK = 0, NO_LEASE = 1, TOO_LONG = 2, RATION = 3, BUSY = 4, LATE = 5, AGAIN = 0x80 };

// The last 64 ids of valve and LED commands, each with the code of its answer.
class KnownIds {
  public:
    bool find(uint32_t id, uint8_t& code) const;
    void add(uint32_t id, uint8_t code);

  private:
    static constexpr uint8_t kept = 64;
    uint32_t ids_[kept];
    uint8_t codes_[kept];
    uint8_t count_ = 0, next_ = 0;
};

// Open time already given; falls by the whole ration in 12 hours, a second at a time.
class Ration {
  public:
    bool covers(uint32_t open_us) const { return open_us <= limits::ration_open_us - spent_us_; }
    void spend(uint32_t open_us) { spent_us_ += open_us; }
    void second_passed();

  private:
    uint32_t spent_us_ = 0;
    uint32_t rest_ = 0;  // of the division
};

// On time the LED may still spend, in nanoseconds so that no pulse needs a division. Whole at boot.
class LedCredit {
  public:
    void refill(uint32_t now_us);
    bool spend(uint32_t pulse_us);
    void overdraw(uint32_t us);  // light that was not paid for

  private:
    uint32_t credit_ns_ = 1000 * limits::led_longest_us;
    uint32_t at_us_ = 0;
};

// Milliseconds from many small pieces.
class Total {
  public:
    void add(uint32_t us);
    uint32_t ms() const { return ms_; }

  private:
    uint32_t ms_ = 0, rest_us_ = 0;
};

class Controller {
  public:
    void begin(uint32_t boot_id, bool a, bool b);  // a, b: levels of the wheel's two channels

    // From the main loop.
    bool take(uint8_t byte);  // from the host; true: this byte completed a packet, which was obeyed
    void poll();              // sends what has happened; obeys deadlines that no interrupt has met
    Outbox out;

    // From interrupts.
    void frame_trigger();
    void lick();
    void wheel(bool a, bool b);
    void valve_time_is_up();
    void led_time_is_up();
    void guard();  // at least every millisecond: the end of the lease, and of pulses whose timer has missed it

  private:
    void obey();
    uint32_t good_for_us(uint32_t now_us) const;  // the packet just taken; 0: too late, or for another boot
    void lease();
    void command(bool is_valve);
    Code valve(uint32_t open_us, uint32_t now_us);
    Code led(bool armed, uint32_t pulse_us, uint32_t now_us);
    void make_safe();
    void close_valve();
    void led_off();

    void hello();
    void status();
    void ack(uint8_t code, uint32_t t_us);
    void send_done();
    void report_valve();
    void report_lick();
    void report_wheel(uint32_t now_us);
    void count_time(uint32_t now_us);

    Receiver in_;
    uint32_t boot_id_ = 0;
    KnownIds known_;
    Ration ration_;
    struct Done {
        uint32_t id, open_us, close_us;
    } done_ = {};  // the last pulse that was reported
    bool any_done_ = false;
    uint32_t valve_id_ = 0;
    uint32_t event_id_ = 0;
    uint32_t next_wheel_us_ = 0;
    uint32_t second_us_ = 0, uptime_s_ = 0;
    Total valve_total_, led_total_;

    // Shared with interrupts: touched by them, and by the main loop while board::Quiet holds them off.
    bool leased_ = false;
    uint32_t leased_us_ = 0, lease_for_us_ = 0;

    bool open_ = false, closed_ = false;  // closed_: a pulse has ended and is not reported yet
    uint32_t opened_us_ = 0, open_for_us_ = 0, closed_us_ = 0;

    uint32_t pulse_us_ = 0;  // 0: disarmed
    bool lit_ = false;
    uint32_t lit_us_ = 0, lit_for_us_ = 0, led_on_us_ = 0;  // led_on_us_: light not yet in led_total_
    uint32_t led_pulses_ = 0;
    uint16_t led_skipped_ = 0;
    LedCredit credit_;

    bool licked_ = false, lick_recent_ = false;  // licked_: not reported yet
    uint32_t licks_ = 0, lick_us_ = 0;
    uint32_t wheel_ = 0;  // signed on the line
    uint8_t wheel_phase_ = 0;
};

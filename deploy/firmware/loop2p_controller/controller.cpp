#include "controller.h"

#include "board.h"

using board::Quiet;

static constexpr uint8_t protocol = 2, major = 2, minor = 0;
static constexpr char name[] = "loop2p-uno";

// ---------------------------------------------------------------- counts

bool KnownIds::find(uint32_t id, uint8_t& code) const {
    for (uint8_t i = 0; i < count_; ++i)
        if (ids_[i] == id) {
            code = codes_[i];
            return true;
        }
    return false;
}

void KnownIds::add(uint32_t id, uint8_t code) {
    ids_[next_] = id;
    codes_[next_] = code;
    next_ = (next_ + 1) % kept;
    if (count_ < kept) ++count_;
}

void Ration::second_passed() {
    rest_ += 10 * limits::ration_open_ms;  // x 1000 us in 12 x 3600 s
    const uint32_t us = rest_ / 432;
    rest_ %= 432;
    spent_us_ -= us < spent_us_ ? us : spent_us_;
}

void LedCredit::refill(uint32_t now_us) {
    constexpr uint32_t whole_ns = 1000 * limits::led_longest_us;
    const uint32_t passed_us = now_us - at_us_;
    at_us_ = now_us;
    if (passed_us >= 1000ul * limits::led_window_ms) {
        credit_ns_ = whole_ns;
        return;
    }
    credit_ns_ += passed_us * limits::led_duty_permille;
    if (credit_ns_ > whole_ns) credit_ns_ = whole_ns;
}

bool LedCredit::spend(uint32_t pulse_us) {
    if (credit_ns_ < 1000 * pulse_us) return false;
    credit_ns_ -= 1000 * pulse_us;
    return true;
}

void LedCredit::overdraw(uint32_t us) {
    const uint32_t ns = 1000 * us;
    credit_ns_ -= ns < credit_ns_ ? ns : credit_ns_;
}

void Total::add(uint32_t us) {
    rest_us_ += us;
    ms_ += rest_us_ / 1000;
    rest_us_ %= 1000;
}

// ---------------------------------------------------------------- what packets do

void Controller::begin(uint32_t boot_id, bool a, bool b) {
    const uint32_t now_us = board::now_us();
    boot_id_ = boot_id;
    wheel_phase_ = a << 1 | b;
    next_wheel_us_ = now_us + 1000ul * limits::wheel_every_ms;
    second_us_ = now_us;
}

bool Controller::take(uint8_t byte) {
    if (!in_.take(byte)) return false;
    guard();         // a lease that has just run out is worth nothing
    report_valve();  // what has happened is said before what is done now
    obey();
    return true;
}

void Controller::obey() {
    switch (in_.kind()) {
        case HELLO_QUERY: hello(); break;
        case LEASE: lease(); break;
        case VALVE: command(true); break;
        case LED: command(false); break;
        case SAFE: {
            make_safe();
            const uint32_t now_us = board::now_us();
            report_valve();
            ack(OK, now_us);
            break;
        }
        case STATUS_QUERY: status(); break;
    }
}

uint32_t Controller::good_for_us(uint32_t now_us) const {
    if (in_.payload_u32(0) != boot_id_) return 0;  // a host that does not know of a restart commands nothing
    const uint32_t left_us = in_.payload_u32(4) - now_us;
    return left_us <= limits::ahead_us ? left_us : 0;  // what is past lies far ahead: time wraps
}

void Controller::lease() {
    Quiet quiet;
    const uint32_t now_us = board::now_us(), good_us = good_for_us(now_us);
    if (!good_us) return;
    leased_ = true;
    leased_us_ = now_us;
    lease_for_us_ = good_us < limits::lease_us ? good_us : limits::lease_us;
}

void Controller::command(bool is_valve) {
    uint8_t code;
    if (known_.find(in_.id(), code)) {
        ack(code | AGAIN, board::now_us());
        if (any_done_ && done_.id == in_.id()) send_done();
        return;
    }
    uint32_t t_us;
    {
        Quiet quiet;  // judged and obeyed under the same lease
        t_us = board::now_us();
        code = is_valve ? valve(in_.payload_u32(8), t_us) : led(in_.payload_u8(8) == 1, in_.payload_u32(9), t_us);
    }
    if (code != LATE) known_.add(in_.id(), code);  // old ones, said again, must not push out the newest
    ack(code, t_us);
}

Code Controller::valve(uint32_t open_us, uint32_t now_us) {
    if (!good_for_us(now_us)) return LATE;
    if (!leased_) return NO_LEASE;
    if (open_us > limits::max_open_us) return TOO_LONG;
    if (open_) return BUSY;
    if (!ration_.covers(open_us)) return RATION;
    ration_.spend(open_us);
    valve_id_ = in_.id();
    opened_us_ = now_us;
    open_for_us_ = open_us;
    if (open_us) {
        open_ = true;
        board::valve_on(open_us);
    } else {  // goes the whole way and moves nothing
        closed_ = true;
        closed_us_ = now_us;
    }
    return OK;
}

Code Controller::led(bool armed, uint32_t pulse_us, uint32_t now_us) {
    if (!armed) {
        pulse_us_ = 0;
        led_off();
        return OK;
    }
    if (!good_for_us(now_us)) return LATE;
    if (!leased_) return NO_LEASE;
    if (!pulse_us || pulse_us > limits::led_longest_us) return TOO_LONG;
    pulse_us_ = pulse_us;
    return OK;
}

// ---------------------------------------------------------------- pins

void Controller::make_safe() {
    Quiet quiet;
    close_valve();
    led_off();
    leased_ = false;
    pulse_us_ = 0;
}

void Controller::close_valve() {
    board::valve_off();
    if (!open_) return;
    open_ = false;
    closed_ = true;
    closed_us_ = board::now_us();
}

void Controller::led_off() {
    board::led_off();
    if (!lit_) return;
    lit_ = false;
    const uint32_t us = board::now_us() - lit_us_;
    led_on_us_ += us;
    if (us > lit_for_us_) credit_.overdraw(us - lit_for_us_);  // an interrupt was late
}

void Controller::valve_time_is_up() { close_valve(); }

void Controller::led_time_is_up() { led_off(); }

void Controller::frame_trigger() {
    if (!pulse_us_) return;
    guard();
    if (!pulse_us_) return;  // the lease has just run out
    const uint32_t now_us = board::now_us();
    credit_.refill(now_us);
    if (lit_ || !credit_.spend(pulse_us_)) {
        if (led_skipped_ < 0xFFFF) ++led_skipped_;
        return;
    }
    lit_ = true;
    lit_us_ = board::now_us();  // a moment later than the trigger was
    lit_for_us_ = pulse_us_;
    board::led_on(pulse_us_);
    ++led_pulses_;
}

void Controller::guard() {
    Quiet quiet;
    const uint32_t now_us = board::now_us();
    if (leased_ && now_us - leased_us_ >= lease_for_us_) make_safe();
    if (open_ && now_us - opened_us_ >= open_for_us_) close_valve();  // its timer has missed it
    if (lit_ && now_us - lit_us_ >= lit_for_us_) led_off();
}

// ---------------------------------------------------------------- animal

void Controller::lick() {
    const uint32_t now_us = board::now_us();
    if (lick_recent_ && now_us - lick_us_ < 1000ul * limits::lick_debounce_ms) return;
    lick_recent_ = licked_ = true;
    lick_us_ = now_us;
    ++licks_;
}

void Controller::wheel(bool a, bool b) {
    // Phase before << 2 | phase now. Counts up while a leads b; a jump over two phases counts nothing.
    static constexpr int8_t step[16] = {0, -1, 1, 0, 1, 0, 0, -1, -1, 0, 0, 1, 0, 1, -1, 0};
    const uint8_t phase = a << 1 | b;
    wheel_ += static_cast<uint32_t>(step[wheel_phase_ << 2 | phase]);
    wheel_phase_ = phase;
}

// ---------------------------------------------------------------- what is said

void Controller::poll() {
    guard();
    const uint32_t now_us = board::now_us();
    report_valve();
    report_lick();
    report_wheel(now_us);
    count_time(now_us);
}

void Controller::report_valve() {
    {
        Quiet quiet;
        if (!closed_) return;
        closed_ = false;
        done_ = {valve_id_, opened_us_, closed_us_};
    }
    any_done_ = true;
    valve_total_.add(done_.close_us - done_.open_us);
    send_done();
}

void Controller::report_lick() {
    uint32_t licks, t_us;
    {
        Quiet quiet;
        if (!licked_) return;
        licked_ = false;
        licks = licks_;
        t_us = lick_us_;
    }
    Packet packet(LICK, ++event_id_);
    out.send(packet.u32(licks).u32(t_us));
}

void Controller::report_wheel(uint32_t now_us) {
    constexpr uint32_t every_us = 1000ul * limits::wheel_every_ms;
    uint32_t late_us = now_us - next_wheel_us_;
    if (late_us >= 0x80000000) return;  // not yet
    next_wheel_us_ += every_us * (late_us / every_us + 1);
    uint32_t count;
    {
        Quiet quiet;
        count = wheel_;
    }
    Packet packet(WHEEL, ++event_id_);
    out.send(packet.u32(count).u32(now_us));
}

void Controller::count_time(uint32_t now_us) {
    uint32_t led_us;
    {
        Quiet quiet;
        led_us = led_on_us_;
        led_on_us_ = 0;
        // before the clock wraps and makes it look recent again
        if (lick_recent_ && now_us - lick_us_ >= 1000000 && now_us - lick_us_ < 0x80000000) lick_recent_ = false;
    }
    if (led_us) led_total_.add(led_us);  // a division takes 40 us
    if (now_us - second_us_ < 1000000) return;
    second_us_ += 1000000;
    ++uptime_s_;
    ration_.second_passed();
    Quiet quiet;
    credit_.refill(board::now_us());  // and before it wraps here
}

void Controller::hello() {
    Packet packet(HELLO_REPLY, in_.id());
    packet.u8(protocol).u32(boot_id_).u8(major).u8(minor);
    packet.u16(limits::lease_ms).u16(limits::max_open_ms).u32(limits::ration_open_ms);
    packet.u16(limits::led_duty_permille).u16(limits::led_window_ms).text(name, 12);
    out.send(packet);
}

void Controller::status() {
    uint32_t now_us, pulses;
    uint16_t skipped;
    uint8_t flags;
    {
        Quiet quiet;
        now_us = board::now_us();
        flags = leased_ | open_ << 1 | (pulse_us_ != 0) << 2 | lit_ << 3;
        pulses = led_pulses_;
        skipped = led_skipped_;
    }
    count_time(now_us);
    Packet packet(STATUS, in_.id());
    packet.u32(now_us).u32(boot_id_).u8(flags).u32(valve_total_.ms()).u32(led_total_.ms());
    out.send(packet.u32(pulses).u16(skipped).u16(in_.rejected()).u32(uptime_s_));
}

void Controller::ack(uint8_t code, uint32_t t_us) {
    Packet packet(ACK, in_.id());
    out.send(packet.u8(code).u32(t_us));
}

void Controller::send_done() {
    Packet packet(PULSE_DONE, done_.id);
    out.send(packet.u32(done_.open_us).u32(done_.close_us));
}

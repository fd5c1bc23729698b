// The Arduino Uno (ATmega328P, 16 MHz): pins, timers and interrupts.
//
// Timer 0 is the Arduino core's: micros(). Timer 1 runs freely, 4 us a tick: its compare A closes the valve, B turns
// the LED off. Timer 2 interrupts every 0.5 ms for Controller::guard, a second clock for the same deadlines.
#include "board.h"

#include <Arduino.h>
#include <avr/wdt.h>

#include "controller.h"
#include "sketch.h"

// Pin names as on the board; changing one means changing its port here, too.
static constexpr uint8_t valve_bit = _BV(PB1);    // D9, output
static constexpr uint8_t led_bit = _BV(PB2);      // D10, output
static constexpr uint8_t frame_bit = _BV(PD2);    // D2, INT0, rises with each frame
static constexpr uint8_t lick_bit = _BV(PD3);     // D3, INT1, rises with a lick
static constexpr uint8_t wheel_a_bit = _BV(PD4);  // D4, PCINT20, pull-up
static constexpr uint8_t wheel_b_bit = _BV(PD5);  // D5, PCINT21, pull-up

static constexpr uint8_t us_per_tick = 4;

static volatile bool interrupts_live;  // set by timer 2, cleared by the main loop

// Before anything else, before even memory is prepared: pins low, and the watchdog that may have brought us here off.
extern "C" void pins_low_first() __attribute__((naked, used, section(".init3")));
void pins_low_first() {
    PORTB = 0;
    DDRB = valve_bit | led_bit;
    MCUSR = 0;
    wdt_disable();
}

void board_begin() {
    PORTD |= wheel_a_bit | wheel_b_bit;
    EICRA = _BV(ISC01) | _BV(ISC00) | _BV(ISC11) | _BV(ISC10);  // both on the rise
    EIFR = _BV(INTF0) | _BV(INTF1);
    EIMSK = _BV(INT0) | _BV(INT1);
    PCMSK2 = wheel_a_bit | wheel_b_bit;
    PCICR = _BV(PCIE2);

    TCCR1A = 0;
    TCCR1B = _BV(CS11) | _BV(CS10);  // 16 MHz / 64
    TIMSK1 = 0;

    TCCR2A = _BV(WGM21);  // back to 0 at OCR2A
    TCCR2B = _BV(CS22);   // 16 MHz / 64
    OCR2A = 500 / us_per_tick - 1;
    TIMSK2 = _BV(OCIE2A);

    wdt_enable(WDTO_60MS);
}

void board_alive() {
    if (!interrupts_live) return;  // the main loop alone must not keep the watchdog quiet
    interrupts_live = false;
    wdt_reset();
}

bool wheel_a() { return PIND & wheel_a_bit; }
bool wheel_b() { return PIND & wheel_b_bit; }

// ---------------------------------------------------------------- what the controller asks for

namespace board {

uint32_t now_us() { return micros(); }

// One less than asked: that long the interrupt takes to lower the pin. At least 2, or the timer could pass the mark
// before it is set and come back to it 262 ms later.
static uint16_t ticks(uint32_t us) {
    const uint32_t n = (us + us_per_tick / 2) / us_per_tick;
    return n < 3 ? 2 : static_cast<uint16_t>(n - 1);
}

void valve_on(uint32_t for_us) {
    const uint16_t n = ticks(for_us);
    PORTB |= valve_bit;
    OCR1A = TCNT1 + n;
    TIFR1 = _BV(OCF1A);
    TIMSK1 |= _BV(OCIE1A);
}

void led_on(uint32_t for_us) {
    const uint16_t n = ticks(for_us);
    PORTB |= led_bit;
    OCR1B = TCNT1 + n;
    TIFR1 = _BV(OCF1B);
    TIMSK1 |= _BV(OCIE1B);
}

void valve_off() {
    PORTB &= ~valve_bit;
    TIMSK1 &= ~_BV(OCIE1A);
}

void led_off() {
    PORTB &= ~led_bit;
    TIMSK1 &= ~_BV(OCIE1B);
}

Quiet::Quiet() : before_(SREG) { cli(); }

Quiet::~Quiet() {
    __asm__ volatile("" ::: "memory");  // nothing of what was done meanwhile may be put off
    SREG = before_;
}

}  // namespace board

// ---------------------------------------------------------------- interrupts, the most urgent first

ISR(INT0_vect) { controller.frame_trigger(); }

ISR(INT1_vect) { controller.lick(); }

ISR(PCINT2_vect) {
    const uint8_t pins = PIND;
    controller.wheel(pins & wheel_a_bit, pins & wheel_b_bit);
}

ISR(TIMER2_COMPA_vect) {
    interrupts_live = true;
    controller.guard();
}

ISR(TIMER1_COMPA_vect) { controller.valve_time_is_up(); }

ISR(TIMER1_COMPB_vect) { controller.led_time_is_up(); }

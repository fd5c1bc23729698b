/* Runs the firmware in libsimavr, an ATmega328P of 16 MHz, for tests: its true bytes, pins and time.
 *
 * simavr is GPL 3, and so is whatever is linked with it. This program is a peer of the tests, built by them and spoken
 * to through its pipes and a pseudo-terminal; it is no part of the package, is not shipped and imports nothing of it.
 *
 *     simavr_runner firmware.elf BOOT_ID pty LINK     the serial line is a pseudo-terminal at LINK; paced to real time
 *     simavr_runner firmware.elf BOOT_ID steps        the serial line is `send` and `said`; time passes by `run` alone
 *
 * BOOT_ID is the first boot's, decimal; each reset adds 1.
 *
 * Lines in (times in microseconds of firmware time, from now):
 *     send HEX            bytes from the host, back to back (steps)
 *     run US              let time pass, then say `now` (steps)
 *     lick US...          the lick pin rises at these times, for 100 us
 *     frame US...         the frame trigger rises at these times, for 100 us
 *     frames COUNT US     a train of frame triggers, this far apart, the first at once
 *     wheel STEPS US      quadrature steps, signed, this far apart
 *     reset               the reset pin
 *     hang | hang deaf    the main loop never returns; deaf: with interrupts off
 * Lines out (times in cycles since the start: 16 a microsecond):
 *     port PATH           the pseudo-terminal (pty)
 *     pin NAME LEVEL AT   valve or led; a reset lets the pin float and its pull-down take it low
 *     host AT HEX         a packet from the host, its last byte in
 *     said AT HEX         a packet to the host, its last byte out
 *     reset AT            the controller restarts, by whatever cause
 *     slip MS             this machine was too slow, firmware time was held up (pty)
 *     now AT
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "avr_eeprom.h"
#include "avr_ioport.h"
#include "avr_uart.h"
#include "sim_avr.h"
#include "sim_elf.h"

/* simavr's receiver takes 11 bits' time for a byte, a parity bit that is not there among them: 94 us, not 87 */
enum { MHZ = 16, CYCLES_PER_BYTE = 1500, PULSE_US = 100, SLICE_US = 200, LATE_US = 5000 };
enum { VALVE = 1, LED = 2 };                             /* port B: D9, D10 */
enum { FRAME = 2, LICK = 3, WHEEL_A = 4, WHEEL_B = 5 };  /* port D: D2 to D5 */
enum { HANG_DEAF = 0x7F00, HANG = 0x7F02 };              /* flash that the firmware does not use */

static avr_t *avr;
static avr_irq_t *uart_in;
static int terminal = -1;

static void fail(const char *what) {
    fprintf(stderr, "simavr_runner: %s\n", what);
    _exit(2);
}

/* ---------------------------------------------------------------- pins */

static int levels[8]; /* of port B, as the world sees them */

static void set_level(int pin, int level) {
    if (levels[pin] == level) return;
    levels[pin] = level;
    printf("pin %s %d %llu\n", pin == VALVE ? "valve" : "led", level, (unsigned long long)avr->cycle);
}

static void pin_changed(struct avr_irq_t *irq, uint32_t value, void *pin) {
    (void)irq;
    set_level((int)(intptr_t)pin, value & 1);
}

struct event {
    avr_cycle_count_t at;
    int pin, level;
};
static struct event *events; /* earliest first */
static size_t n_events, room_for_events;
static int inputs; /* levels of port D */

static void hold_inputs(void) { /* the wheel drives its lines against the pull-ups */
    avr_ioport_external_t held = {.name = 'D', .mask = 1 << WHEEL_A | 1 << WHEEL_B, .value = inputs};
    avr_ioctl(avr, AVR_IOCTL_IOPORT_SET_EXTERNAL('D'), &held);
}

static void set_input(int pin, int level) {
    inputs = (inputs & ~(1 << pin)) | level << pin;
    hold_inputs();
    avr_raise_irq(avr_io_getirq(avr, AVR_IOCTL_IOPORT_GETIRQ('D'), pin), level);
}

static avr_cycle_count_t inputs_due(avr_t *a, avr_cycle_count_t when, void *param) {
    (void)when, (void)param;
    size_t done = 0;
    for (; done < n_events && events[done].at <= a->cycle; ++done) set_input(events[done].pin, events[done].level);
    n_events -= done;
    memmove(events, events + done, n_events * sizeof *events);
    return n_events ? events[0].at : 0;
}

static void wait_for_inputs(void) {
    avr_cycle_timer_cancel(avr, inputs_due, NULL);
    if (!n_events) return;
    avr_cycle_count_t at = events[0].at;
    avr_cycle_timer_register(avr, at > avr->cycle ? at - avr->cycle : 1, inputs_due, NULL);
}

static void plan(double in_us, int pin, int level) {
    if (n_events == room_for_events) {
        room_for_events = 2 * room_for_events + 64;
        events = realloc(events, room_for_events * sizeof *events);
        if (!events) fail("out of memory");
    }
    struct event new = {avr->cycle + (avr_cycle_count_t)(in_us * MHZ), pin, level};
    size_t at = n_events++;
    for (; at && events[at - 1].at > new.at; --at) events[at] = events[at - 1];
    events[at] = new;
}

static void plan_pulse(double in_us, int pin) {
    plan(in_us, pin, 1);
    plan(in_us + PULSE_US, pin, 0);
}

static void plan_wheel(int steps, double every_us) {
    static const int a_of[4] = {0, 1, 1, 0}, b_of[4] = {0, 0, 1, 1};
    static int phase;
    for (int n = 1; n <= abs(steps); ++n) {
        phase = (phase + (steps > 0 ? 1 : 3)) % 4;
        plan(n * every_us, WHEEL_A, a_of[phase]); /* one of the two is no change and does nothing */
        plan(n * every_us, WHEEL_B, b_of[phase]);
    }
}

/* ---------------------------------------------------------------- the serial line */

static uint8_t *line; /* bytes from the host that are not yet on the line */
static size_t line_at, line_end, line_room;

struct packet {
    uint8_t bytes[256];
    size_t count;
};

static void log_byte(const char *what, struct packet *p, uint8_t byte) {
    if (p->count < sizeof p->bytes) p->bytes[p->count++] = byte;
    if (byte) return;
    printf("%s %llu ", what, (unsigned long long)avr->cycle);
    for (size_t i = 0; i < p->count; ++i) printf("%02x", p->bytes[i]);
    printf("\n");
    p->count = 0;
}

static avr_cycle_count_t byte_due(avr_t *a, avr_cycle_count_t when, void *param) {
    static struct packet log;
    (void)param, (void)a;
    log_byte("host", &log, line[line_at]);
    avr_raise_irq(uart_in, line[line_at++]);
    return line_at < line_end ? when + CYCLES_PER_BYTE : 0;
}

static void from_host(const uint8_t *bytes, size_t count) {
    if (line_at == line_end) line_at = line_end = 0;
    if (line_end + count > line_room) {
        line_room = 2 * (line_end + count);
        line = realloc(line, line_room);
        if (!line) fail("out of memory");
    }
    int idle = line_at == line_end;
    memcpy(line + line_end, bytes, count);
    line_end += count;
    if (idle && count) avr_cycle_timer_register(avr, CYCLES_PER_BYTE, byte_due, NULL);
}

static void byte_out(struct avr_irq_t *irq, uint32_t value, void *param) {
    static struct packet log;
    uint8_t byte = value;
    (void)irq, (void)param;
    log_byte("said", &log, byte);
    if (terminal >= 0 && write(terminal, &byte, 1) < 0 && errno != EAGAIN) fail(strerror(errno)); /* full: lost */
}

/* ---------------------------------------------------------------- the controller */

static void (*reset_of_the_model)(struct avr_t *);

static void was_reset(struct avr_t *a) {
    set_level(VALVE, 0);
    set_level(LED, 0);
    printf("reset %llu\n", (unsigned long long)avr->cycle);
    if (reset_of_the_model) reset_of_the_model(a);
    for (int pin = FRAME; pin <= WHEEL_B; ++pin) { /* simavr has forgotten what is high outside */
        avr_irq_t *irq = avr_io_getirq(avr, AVR_IOCTL_IOPORT_GETIRQ('D'), pin);
        if (!(inputs >> pin & 1)) continue; /* a low pin 2 or 3 that is told to be low is polled at every cycle */
        avr_raise_irq(irq, 0);
        avr_raise_irq(irq, 1);
    }
    wait_for_inputs();
    if (line_at < line_end) avr_cycle_timer_register(avr, CYCLES_PER_BYTE, byte_due, NULL);
}

static void load(const char *path, const char *boot_id) {
    elf_firmware_t firmware = {0};
    if (elf_read_firmware(path, &firmware)) fail("can't read the firmware; expected an .elf built by deploy/firmware");
    avr = avr_make_mcu_by_name("atmega328p");
    if (!avr) fail("this libsimavr knows no atmega328p");
    avr_init(avr);
    avr->run_cycle_limit = SLICE_US * MHZ; /* instructions in one go; simavr looks at its timers in between by itself */
    firmware.frequency = MHZ * 1000000;
    avr_load_firmware(avr, &firmware);
    static const uint8_t hang[4] = {0xF8, 0x94, 0xFF, 0xCF}; /* cli; then a jump to itself */
    memcpy(avr->flash + HANG_DEAF, hang, sizeof hang);

    uint32_t before = strtoul(boot_id, NULL, 10) - 1; /* what the EEPROM holds: the last boot's */
    avr_eeprom_desc_t eeprom = {.ee = (uint8_t *)&before, .offset = 0, .size = sizeof before};
    avr_ioctl(avr, AVR_IOCTL_EEPROM_SET, &eeprom);

    uint32_t flags = 0; /* no echo of the line, no sleep when it is polled */
    avr_ioctl(avr, AVR_IOCTL_UART_SET_FLAGS('0'), &flags);
    uart_in = avr_io_getirq(avr, AVR_IOCTL_UART_GETIRQ('0'), UART_IRQ_INPUT);
    avr_irq_register_notify(avr_io_getirq(avr, AVR_IOCTL_UART_GETIRQ('0'), UART_IRQ_OUTPUT), byte_out, NULL);
    for (intptr_t pin = VALVE; pin <= LED; ++pin)
        avr_irq_register_notify(avr_io_getirq(avr, AVR_IOCTL_IOPORT_GETIRQ('B'), pin), pin_changed, (void *)pin);
    hold_inputs();
    reset_of_the_model = avr->reset;
    avr->reset = was_reset;
}

static void step(void) {
    int state = avr_run(avr);
    if (state == cpu_Done || state == cpu_Crashed) fail("the firmware has crashed");
}

static void run_until(avr_cycle_count_t cycle) {
    while (avr->cycle < cycle) step();
}

static void hang(int where) {
    while (!avr->sreg[S_I]) step(); /* not inside an interrupt */
    avr->pc = where;
}

/* ---------------------------------------------------------------- commands */

static void send_hex(char *text) {
    uint8_t byte;
    for (unsigned value; sscanf(text, "%2x", &value) == 1; text += 2) {
        byte = value;
        from_host(&byte, 1);
        if (!text[1]) break;
    }
}

static void obey(char *command) {
    char *rest = strchr(command, ' ');
    rest = rest ? (*rest = 0, rest + 1) : command + strlen(command);
    int is_frame = !strcmp(command, "frame"), count, taken;
    double us;
    if (!strcmp(command, "run") && sscanf(rest, "%lf", &us) == 1) {
        run_until(avr->cycle + (avr_cycle_count_t)(us * MHZ));
        printf("now %llu\n", (unsigned long long)avr->cycle);
    } else if (!strcmp(command, "send")) {
        send_hex(rest);
    } else if (is_frame || !strcmp(command, "lick")) {
        for (; sscanf(rest, "%lf%n", &us, &taken) == 1; rest += taken) plan_pulse(us, is_frame ? FRAME : LICK);
    } else if (!strcmp(command, "frames") && sscanf(rest, "%d %lf", &count, &us) == 2) {
        for (int n = 0; n < count; ++n) plan_pulse(n * us, FRAME);
    } else if (!strcmp(command, "wheel") && sscanf(rest, "%d %lf", &count, &us) == 2) {
        plan_wheel(count, us);
    } else if (!strcmp(command, "reset")) {
        avr_reset(avr);
    } else if (!strcmp(command, "hang")) {
        hang(strcmp(rest, "deaf") ? HANG : HANG_DEAF);
    } else {
        fail(command);
    }
    wait_for_inputs();
}

static void read_commands(void) {
    static char waiting[1 << 20];
    static size_t count;
    ssize_t got = read(0, waiting + count, sizeof waiting - 1 - count);
    if (got <= 0) _exit(0); /* whoever started this has gone */
    count += got;
    char *begin = waiting, *end;
    while ((end = memchr(begin, '\n', waiting + count - begin))) {
        *end = 0;
        obey(begin);
        begin = end + 1;
    }
    count -= begin - waiting;
    memmove(waiting, begin, count);
    if (count == sizeof waiting - 1) fail("a command of more than 1 MB");
}

/* ---------------------------------------------------------------- time */

static int64_t wall_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000LL + t.tv_nsec / 1000;
}

static void open_terminal(const char *link) {
    int slave; /* stays open, so that a host may come and go as at a real port */
    struct termios raw;
    char name[64], fresh[4096];
    if (openpty(&terminal, &slave, name, NULL, NULL)) fail("no pseudo-terminal");
    tcgetattr(slave, &raw);
    cfmakeraw(&raw);
    tcsetattr(slave, TCSANOW, &raw);
    fcntl(terminal, F_SETFL, O_NONBLOCK);
    snprintf(fresh, sizeof fresh, "%s.%d", link, getpid());
    if (symlink(name, fresh) || rename(fresh, link)) fail("can't make the link to the pseudo-terminal");
    printf("port %s\n", name);
}

static void run_in_real_time(void) {
    struct pollfd inputs_from[2] = {{.fd = 0, .events = POLLIN}, {.fd = terminal, .events = POLLIN}};
    int64_t start_us = wall_us();
    for (;;) {
        int64_t ahead_us = (int64_t)(avr->cycle / MHZ) - (wall_us() - start_us);
        if (ahead_us < -LATE_US) {
            printf("slip %.1f\n", -ahead_us / 1000.0);
            start_us -= ahead_us;
        }
        struct timespec wait = {0, ahead_us > 0 ? (ahead_us > SLICE_US ? SLICE_US : ahead_us) * 1000 : 0};
        if (ppoll(inputs_from, 2, &wait, NULL) > 0) {
            if (inputs_from[0].revents) read_commands();
            uint8_t bytes[4096];
            ssize_t got = inputs_from[1].revents & POLLIN ? read(terminal, bytes, sizeof bytes) : 0;
            if (got > 0) from_host(bytes, got);
        }
        if (ahead_us <= 0) run_until(avr->cycle + SLICE_US * MHZ);
    }
}

static void quiet(struct avr_t *a, const int level, const char *format, va_list arguments) {
    if (level <= LOG_ERROR) vfprintf(stderr, format, arguments);
    (void)a;
}

int main(int argc, char **argv) {
    setvbuf(stdout, NULL, _IOLBF, 0);
    avr_global_logger_set(quiet);
    if (argc == 5 && !strcmp(argv[3], "pty")) {
        load(argv[1], argv[2]);
        open_terminal(argv[4]);
        run_in_real_time();
    } else if (argc == 4 && !strcmp(argv[3], "steps")) {
        load(argv[1], argv[2]);
        for (;;) read_commands();
    }
    fail("expected: firmware.elf BOOT_ID pty LINK, or: firmware.elf BOOT_ID steps");
}

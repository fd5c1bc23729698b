#include "msgpack.h"

#include <string.h>

enum { DEEPEST = 32 };

mp_reader mp_read(const void *data, size_t size)
{
    return (mp_reader){data, (const uint8_t *)data + size, false};
}

static const uint8_t *take(mp_reader *r, size_t n)
{
    if (r->broken || (size_t)(r->end - r->at) < n) {
        r->broken = true;
        return NULL;
    }
    const uint8_t *here = r->at;
    r->at += n;
    return here;
}

static uint8_t take_tag(mp_reader *r)
{
    const uint8_t *p = take(r, 1);
    return p ? *p : 0xc1; /* never used by MessagePack */
}

/* A big-endian unsigned integer of n bytes. */
static uint64_t take_uint(mp_reader *r, size_t n)
{
    const uint8_t *p = take(r, n);
    uint64_t value = 0;
    for (size_t k = 0; p && k < n; k++)
        value = value << 8 | p[k];
    return value;
}

static size_t fail(mp_reader *r)
{
    r->broken = true;
    return 0;
}

/* Each pair and element takes a byte at least: more than there are bytes can't be right. */
static size_t check(mp_reader *r, uint64_t n)
{
    return n <= (uint64_t)(r->end - r->at) ? (size_t)n : fail(r);
}

size_t mp_map(mp_reader *r)
{
    uint8_t tag = take_tag(r);
    if ((tag & 0xf0) == 0x80)
        return check(r, tag & 0x0f);
    return tag == 0xde ? check(r, take_uint(r, 2)) : tag == 0xdf ? check(r, take_uint(r, 4)) : fail(r);
}

size_t mp_array(mp_reader *r)
{
    uint8_t tag = take_tag(r);
    if ((tag & 0xf0) == 0x90)
        return check(r, tag & 0x0f);
    return tag == 0xdc ? check(r, take_uint(r, 2)) : tag == 0xdd ? check(r, take_uint(r, 4)) : fail(r);
}

static mp_bytes take_bytes(mp_reader *r, uint64_t n)
{
    const uint8_t *p = take(r, check(r, n));
    return p ? (mp_bytes){p, (size_t)n} : (mp_bytes){NULL, 0};
}

mp_bytes mp_text(mp_reader *r)
{
    uint8_t tag = take_tag(r);
    if ((tag & 0xe0) == 0xa0)
        return take_bytes(r, tag & 0x1f);
    if (tag >= 0xd9 && tag <= 0xdb)
        return take_bytes(r, take_uint(r, (size_t)1 << (tag - 0xd9)));
    fail(r);
    return (mp_bytes){NULL, 0};
}

mp_bytes mp_blob(mp_reader *r)
{
    uint8_t tag = take_tag(r);
    if (tag >= 0xc4 && tag <= 0xc6)
        return take_bytes(r, take_uint(r, (size_t)1 << (tag - 0xc4)));
    fail(r);
    return (mp_bytes){NULL, 0};
}

static int64_t int_of(mp_reader *r, uint8_t tag)
{
    if (tag < 0x80)
        return tag;
    if (tag >= 0xe0)
        return (int8_t)tag;
    if (tag >= 0xcc && tag <= 0xcf)
        return (int64_t)take_uint(r, (size_t)1 << (tag - 0xcc));
    if (tag >= 0xd0 && tag <= 0xd3) {
        size_t n = (size_t)1 << (tag - 0xd0);
        unsigned empty = 64 - 8 * (unsigned)n;
        return (int64_t)(take_uint(r, n) << empty) >> empty; /* with its sign */
    }
    return (int64_t)fail(r);
}

int64_t mp_int(mp_reader *r)
{
    return int_of(r, take_tag(r));
}

double mp_number(mp_reader *r)
{
    uint8_t tag = take_tag(r);
    if (tag == 0xca) {
        uint32_t bits = (uint32_t)take_uint(r, 4);
        float value;
        memcpy(&value, &bits, 4);
        return value;
    }
    if (tag == 0xcb) {
        uint64_t bits = take_uint(r, 8);
        double value;
        memcpy(&value, &bits, 8);
        return value;
    }
    return (double)int_of(r, tag);
}

bool mp_bool(mp_reader *r)
{
    uint8_t tag = take_tag(r);
    return tag == 0xc3 || (tag != 0xc2 && fail(r));
}

static void skip(mp_reader *r, int depth)
{
    if (r->broken || r->at == r->end || depth > DEEPEST) {
        r->broken = true;
        return;
    }
    uint8_t tag = *r->at;
    size_t n = 0;
    if ((tag & 0xf0) == 0x80 || tag == 0xde || tag == 0xdf)
        n = 2 * mp_map(r);
    else if ((tag & 0xf0) == 0x90 || tag == 0xdc || tag == 0xdd)
        n = mp_array(r);
    else if ((tag & 0xe0) == 0xa0 || (tag >= 0xd9 && tag <= 0xdb))
        mp_text(r);
    else if (tag >= 0xc4 && tag <= 0xc6)
        mp_blob(r);
    else if (tag == 0xc0 || tag == 0xc2 || tag == 0xc3)
        take(r, 1);
    else if (tag >= 0xc7 && tag <= 0xc9) { /* extensions: a type behind the length */
        take(r, 1);
        uint64_t size = take_uint(r, (size_t)1 << (tag - 0xc7));
        take(r, check(r, size + 1));
    } else if (tag >= 0xd4 && tag <= 0xd8)
        take(r, 2 + ((size_t)1 << (tag - 0xd4)));
    else
        mp_number(r);
    for (size_t k = 0; k < n && !r->broken; k++)
        skip(r, depth + 1);
}

void mp_skip(mp_reader *r)
{
    skip(r, 0);
}

bool mp_is(mp_bytes text, const char *word)
{
    return text.data && text.size == strlen(word) && !memcmp(text.data, word, text.size);
}

mp_writer mp_write(void *buffer, size_t room)
{
    return (mp_writer){buffer, 0, room, false};
}

void mp_put_raw(mp_writer *w, const void *data, size_t size)
{
    if (w->full || w->room - w->size < size) {
        w->full = true;
        return;
    }
    memcpy(w->data + w->size, data, size);
    w->size += size;
}

static void put_tagged(mp_writer *w, uint8_t tag, uint64_t value, size_t n)
{
    uint8_t bytes[9] = {tag};
    for (size_t k = 0; k < n; k++)
        bytes[1 + k] = (uint8_t)(value >> 8 * (n - 1 - k));
    mp_put_raw(w, bytes, 1 + n);
}

void mp_put_map(mp_writer *w, size_t pairs)
{
    put_tagged(w, 0xde, pairs, 2);
}

void mp_put_text(mp_writer *w, const char *text)
{
    put_tagged(w, 0xda, strlen(text), 2);
    mp_put_raw(w, text, strlen(text));
}

void mp_put_int(mp_writer *w, int64_t value)
{
    put_tagged(w, 0xd3, (uint64_t)value, 8);
}

void mp_put_number(mp_writer *w, double value)
{
    uint64_t bits;
    memcpy(&bits, &value, 8);
    put_tagged(w, 0xcb, bits, 8);
}

void mp_put_bool(mp_writer *w, bool value)
{
    put_tagged(w, value ? 0xc3 : 0xc2, 0, 0);
}

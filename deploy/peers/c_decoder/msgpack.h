/* As much of MessagePack as a peer needs: maps with string keys, numbers, strings, bytes. Nothing is allocated. */
#ifndef MSGPACK_H
#define MSGPACK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* ------------------------------------------------------------------ reading
 * A reader stands at a value. What can't be read sets `broken`, and everything read after that is 0 or empty,
 * so that it is enough to look once at the end. */
typedef struct {
    const uint8_t *at, *end;
    bool broken;
} mp_reader;

typedef struct {
    const uint8_t *data;
    size_t size;
} mp_bytes;

mp_reader mp_read(const void *data, size_t size);
size_t mp_map(mp_reader *r);      /* number of pairs */
size_t mp_array(mp_reader *r);    /* number of elements */
mp_bytes mp_text(mp_reader *r);   /* str */
mp_bytes mp_blob(mp_reader *r);   /* bin */
int64_t mp_int(mp_reader *r);
double mp_number(mp_reader *r);   /* float or integer */
bool mp_bool(mp_reader *r);
void mp_skip(mp_reader *r);       /* any value, however nested */
bool mp_is(mp_bytes text, const char *word);

/* ------------------------------------------------------------------ writing
 * Into a buffer of the caller's; `full` says that it was too small. */
typedef struct {
    uint8_t *data;
    size_t size, room;
    bool full;
} mp_writer;

mp_writer mp_write(void *buffer, size_t room);
void mp_put_map(mp_writer *w, size_t pairs);
void mp_put_text(mp_writer *w, const char *text);
void mp_put_int(mp_writer *w, int64_t value);
void mp_put_number(mp_writer *w, double value);
void mp_put_bool(mp_writer *w, bool value);
void mp_put_raw(mp_writer *w, const void *data, size_t size); /* MessagePack that is there already */

#endif

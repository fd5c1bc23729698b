/* Reads a golden vector (protocol/vectors) from standard input: exit code 0 where it is MessagePack to its last byte. */
#include <stdio.h>

#include "msgpack.h"

int main(void)
{
    static unsigned char data[1 << 20];
    size_t size = fread(data, 1, sizeof data, stdin);
    mp_reader r = mp_read(data, size);
    mp_skip(&r);
    return r.broken || r.at != r.end;
}

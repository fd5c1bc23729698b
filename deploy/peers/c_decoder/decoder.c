/* The published decoder in C, with libzmq alone: D = mean dF/F of P+ minus mean dF/F of P-, the control value the mean
 * of three. F0 is the 10th percentile of the last 30 s (464 frames at 15.46 Hz), between two ranks as numpy has it.
 *
 * Where it binds and whom it hears stands in its environment (protocol/SPEC.md):
 *   LOOP2P_RIG_HASH LOOP2P_PUBLISH LOOP2P_CONTROL LOOP2P_IMAGING LOOP2P_TASK
 * It says nothing of itself on standard output; exit code 0 when it was asked to end, 2 where something is missing. */
#include <errno.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <zmq.h>

#include "msgpack.h"

enum { WINDOW = 464, SMOOTH = 3, SETTLE = 155, MOST_ROIS = 4096, MOST_PARTS = 11, BEAT_MS = 50 };

static volatile sig_atomic_t stopping;

static void on_signal(int number)
{
    (void)number;
    stopping = 1;
}

/* CLOCK_MONOTONIC: the rig clock, where the reference runs on the same machine. */
static int64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* ------------------------------------------------------------------ the decoder */
static struct {
    size_t n_plus, n_minus, n_rois;
    int64_t plus[MOST_ROIS], minus[MOST_ROIS];
    float *f; /* (WINDOW, n_rois) the last frames, round and round */
    size_t frames;
    double last[SMOOTH];
} decoder;

static void forget(void)
{
    decoder.frames = 0;
    memset(decoder.last, 0, sizeof decoder.last);
}

static int rising(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

/* (F - F0) / F0 of one ROI in the newest frame; NAN where F0 is not above 0. */
static double dff(int64_t roi)
{
    static float sorted[WINDOW];
    size_t n = decoder.frames < WINDOW ? decoder.frames : WINDOW;
    for (size_t k = 0; k < n; k++)
        sorted[k] = decoder.f[k * decoder.n_rois + (size_t)roi];
    float newest = sorted[(decoder.frames - 1) % WINDOW];
    qsort(sorted, n, sizeof *sorted, rising);
    double rank = 0.1 * (double)(n - 1), below = floor(rank);
    size_t low = (size_t)below, high = low + 1 < n ? low + 1 : low;
    double f0 = sorted[low] + (rank - below) * ((double)sorted[high] - sorted[low]);
    return f0 > 0 ? (newest - f0) / f0 : NAN;
}

static double mean_dff(const int64_t *rois, size_t n)
{
    double sum = 0;
    for (size_t k = 0; k < n; k++)
        sum += dff(rois[k]);
    return sum / (double)n;
}

/* Take a frame; false where nothing can be said. */
static bool decode(const uint8_t *f, size_t n_rois, double *d, double *value)
{
    if (n_rois != decoder.n_rois) {
        free(decoder.f);
        decoder.f = calloc(WINDOW * n_rois, sizeof(float));
        decoder.n_rois = decoder.f ? n_rois : 0;
        forget();
    }
    for (size_t k = 0; k < decoder.n_plus; k++)
        if (decoder.plus[k] < 0 || (size_t)decoder.plus[k] >= decoder.n_rois)
            return false;
    for (size_t k = 0; k < decoder.n_minus; k++)
        if (decoder.minus[k] < 0 || (size_t)decoder.minus[k] >= decoder.n_rois)
            return false;
    if (!decoder.n_plus || !decoder.n_minus)
        return false;
    memcpy(decoder.f + decoder.frames % WINDOW * n_rois, f, n_rois * sizeof(float)); /* little-endian, as we are */
    decoder.frames++;
    *d = mean_dff(decoder.plus, decoder.n_plus) - mean_dff(decoder.minus, decoder.n_minus);
    if (!isfinite(*d))
        return false;
    memmove(decoder.last, decoder.last + 1, (SMOOTH - 1) * sizeof *decoder.last);
    decoder.last[SMOOTH - 1] = *d;
    size_t n = decoder.frames < SMOOTH ? decoder.frames : SMOOTH;
    *value = 0;
    for (size_t k = SMOOTH - n; k < SMOOTH; k++)
        *value += decoder.last[k] / (double)n;
    return true;
}

/* ------------------------------------------------------------------ what is sent */
static void *publisher;
static const char *rig_hash;
static char instance[64], run_id[256];
static int64_t sent_outputs, sent_beats, rejected;

static void publish(const char *topic, int64_t seq, mp_bytes cause, const mp_writer *body)
{
    uint8_t room[1024];
    mp_writer header = mp_write(room, sizeof room);
    mp_put_map(&header, cause.data ? 6 : 5);
    mp_put_text(&header, "protocol");
    mp_put_int(&header, 1);
    mp_put_text(&header, "source");
    mp_put_text(&header, "decoding");
    mp_put_text(&header, "instance");
    mp_put_text(&header, instance);
    mp_put_text(&header, "seq");
    mp_put_int(&header, seq);
    mp_put_text(&header, "sent_ns");
    mp_put_int(&header, now_ns());
    if (cause.data) {
        mp_put_text(&header, "cause");
        mp_put_raw(&header, cause.data, cause.size);
    }
    if (header.full || body->full)
        return;
    zmq_send(publisher, topic, strlen(topic), ZMQ_SNDMORE);
    zmq_send(publisher, header.data, header.size, ZMQ_SNDMORE);
    zmq_send(publisher, body->data, body->size, 0);
}

static void publish_output(double d, double value, bool valid, mp_bytes cause)
{
    uint8_t room[256];
    mp_writer body = mp_write(room, sizeof room);
    mp_put_map(&body, 4);
    mp_put_text(&body, "type");
    mp_put_text(&body, "output");
    mp_put_text(&body, "d");
    mp_put_number(&body, d);
    mp_put_text(&body, "value");
    mp_put_number(&body, value);
    mp_put_text(&body, "valid");
    mp_put_bool(&body, valid);
    publish("decoding.output", sent_outputs++, cause, &body);
}

static void publish_heartbeat(const char *health)
{
    uint8_t room[1024];
    mp_writer body = mp_write(room, sizeof room);
    mp_put_map(&body, 7);
    mp_put_text(&body, "type");
    mp_put_text(&body, "heartbeat");
    mp_put_text(&body, "health");
    mp_put_text(&body, health);
    mp_put_text(&body, "protocol");
    mp_put_int(&body, 1);
    mp_put_text(&body, "rig_hash");
    mp_put_text(&body, rig_hash);
    mp_put_text(&body, "run_id");
    mp_put_text(&body, run_id);
    mp_put_text(&body, "rejected");
    mp_put_int(&body, rejected);
    mp_put_text(&body, "published");
    mp_put_map(&body, 2);
    mp_put_text(&body, "decoding.output");
    mp_put_int(&body, sent_outputs);
    mp_put_text(&body, "rig.heartbeat");
    mp_put_int(&body, sent_beats);
    publish("rig.heartbeat", sent_beats++, (mp_bytes){NULL, 0}, &body);
}

/* ------------------------------------------------------------------ what is heard
 * Each reads a whole body before it does anything: a broken one changes nothing. */
static bool take_traces(mp_bytes body, mp_bytes cause)
{
    mp_reader r = mp_read(body.data, body.size);
    mp_bytes f = {NULL, 0};
    int64_t plane = -1;
    bool valid = true;
    for (size_t n = mp_map(&r); n && !r.broken; n--) {
        mp_bytes key = mp_text(&r);
        if (mp_is(key, "plane"))
            plane = mp_int(&r);
        else if (mp_is(key, "f"))
            f = mp_blob(&r);
        else if (mp_is(key, "valid"))
            valid = mp_bool(&r);
        else
            mp_skip(&r);
    }
    size_t n_rois = f.size / sizeof(float);
    if (r.broken || plane < 0 || !cause.data || f.size % sizeof(float) || n_rois > MOST_ROIS)
        return false;
    if (plane != 0)
        return true;
    double d = decoder.last[SMOOTH - 1], value = d;
    bool settled = decoder.frames >= SETTLE;
    if (!valid && decoder.n_plus)
        publish_output(d, value, false, cause);
    else if (valid && decode(f.data, n_rois, &d, &value))
        publish_output(d, value, settled, cause);
    return true;
}

static size_t take_rois(mp_reader *r, int64_t *rois)
{
    size_t n = mp_array(r);
    if (n > MOST_ROIS)
        r->broken = true;
    for (size_t k = 0; k < n && !r->broken; k++)
        rois[k] = mp_int(r);
    return n;
}

static bool take_selection(mp_bytes body)
{
    static int64_t plus[MOST_ROIS], minus[MOST_ROIS];
    size_t n_plus = 0, n_minus = 0;
    mp_reader r = mp_read(body.data, body.size);
    for (size_t n = mp_map(&r); n && !r.broken; n--) {
        mp_bytes key = mp_text(&r);
        if (mp_is(key, "plus"))
            n_plus = take_rois(&r, plus);
        else if (mp_is(key, "minus"))
            n_minus = take_rois(&r, minus);
        else
            mp_skip(&r);
    }
    if (r.broken || !n_plus || !n_minus)
        return false;
    memcpy(decoder.plus, plus, n_plus * sizeof *plus);
    memcpy(decoder.minus, minus, n_minus * sizeof *minus);
    decoder.n_plus = n_plus;
    decoder.n_minus = n_minus;
    return true;
}

/* A session that begins now begins with an empty F0; one that is sent again began before we joined. */
static bool take_session(mp_bytes body, bool resent)
{
    mp_reader r = mp_read(body.data, body.size);
    mp_bytes id = {NULL, 0};
    for (size_t n = mp_map(&r); n && !r.broken; n--) {
        if (mp_is(mp_text(&r), "run_id"))
            id = mp_text(&r);
        else
            mp_skip(&r);
    }
    if (r.broken || !id.data || id.size >= sizeof run_id)
        return false;
    if (!resent && !mp_is(id, run_id))
        forget();
    memcpy(run_id, id.data, id.size);
    run_id[id.size] = 0;
    return true;
}

static bool take(mp_bytes topic, mp_bytes header, mp_bytes body)
{
    mp_reader r = mp_read(header.data, header.size);
    mp_bytes cause = {NULL, 0};
    int64_t protocol = 0;
    bool resent = false, of_imaging = mp_is(topic, "imaging.traces"), known = false;
    for (size_t n = mp_map(&r); n && !r.broken; n--) {
        mp_bytes key = mp_text(&r);
        if (mp_is(key, "protocol"))
            protocol = mp_int(&r);
        else if (mp_is(key, "source"))
            known = mp_is(mp_text(&r), of_imaging ? "imaging" : "task");
        else if (mp_is(key, "resent"))
            resent = mp_bool(&r);
        else if (mp_is(key, "cause")) {
            cause.data = r.at;
            mp_skip(&r);
            cause.size = (size_t)(r.at - cause.data);
            if (*cause.data == 0xc0) /* nil */
                cause = (mp_bytes){NULL, 0};
        } else
            mp_skip(&r);
    }
    if (r.broken || protocol != 1 || !known || cause.size > 256)
        return false;
    if (of_imaging)
        return take_traces(body, cause);
    if (mp_is(topic, "task.selection"))
        return take_selection(body);
    return mp_is(topic, "rig.session") && take_session(body, resent);
}

/* One multipart message; its parts live until all are read. */
static void receive(void *socket)
{
    zmq_msg_t parts[MOST_PARTS];
    int n = 0, more = 1, over = 0;
    while (more) {
        zmq_msg_t extra, *part = n < MOST_PARTS ? &parts[n] : &extra;
        zmq_msg_init(part);
        if (zmq_msg_recv(part, socket, n ? 0 : ZMQ_DONTWAIT) < 0) {
            zmq_msg_close(part);
            break;
        }
        more = zmq_msg_more(part);
        if (n < MOST_PARTS)
            n++;
        else {
            zmq_msg_close(part);
            over = 1;
        }
    }
    mp_bytes b[3] = {{NULL, 0}, {NULL, 0}, {NULL, 0}};
    for (int k = 0; k < n && k < 3; k++)
        b[k] = (mp_bytes){zmq_msg_data(&parts[k]), zmq_msg_size(&parts[k])};
    if (n && (n < 3 || over || !take(b[0], b[1], b[2])))
        rejected++;
    for (int k = 0; k < n; k++)
        zmq_msg_close(&parts[k]);
}

/* The control socket, which need not be there: `stop` is obeyed, all else refused. */
static void answer(void *router)
{
    uint8_t route[256], request[4096], room[256];
    int n = zmq_recv(router, route, sizeof route, 0), size = -1;
    int more = 0, last = 0;
    size_t length = sizeof more;
    zmq_getsockopt(router, ZMQ_RCVMORE, &more, &length);
    while (more) {
        size = zmq_recv(router, request, sizeof request, 0);
        last = size > (int)sizeof request ? -1 : size;
        zmq_getsockopt(router, ZMQ_RCVMORE, &more, &length);
    }
    if (n <= 0 || n > (int)sizeof route)
        return;
    mp_reader r = mp_read(request, last > 0 ? (size_t)last : 0);
    bool stop = false;
    for (size_t k = mp_map(&r); k && !r.broken; k--) {
        if (mp_is(mp_text(&r), "type"))
            stop = mp_is(mp_text(&r), "stop");
        else
            mp_skip(&r);
    }
    stop = stop && !r.broken;
    mp_writer reply = mp_write(room, sizeof room);
    mp_put_map(&reply, 3);
    mp_put_text(&reply, "type");
    mp_put_text(&reply, "answer");
    mp_put_text(&reply, "accepted");
    mp_put_bool(&reply, stop);
    mp_put_text(&reply, "reason");
    mp_put_text(&reply, stop ? "" : "this decoder can only be asked to stop");
    zmq_send(router, route, (size_t)n, ZMQ_SNDMORE);
    zmq_send(router, "", 0, ZMQ_SNDMORE);
    zmq_send(router, reply.data, reply.size, 0);
    stopping = stopping || stop;
}

/* ------------------------------------------------------------------ */
static const char *need(const char *name)
{
    const char *value = getenv(name);
    if (!value || !*value) {
        fprintf(stderr, "decoder: %s is not set, expected as protocol/SPEC.md says\n", name);
        exit(2);
    }
    return value;
}

static void must(int result, const char *what)
{
    if (result == 0)
        return;
    fprintf(stderr, "decoder: %s: %s\n", what, zmq_strerror(errno));
    exit(2);
}

int main(void)
{
    rig_hash = need("LOOP2P_RIG_HASH");
    const char *mine = need("LOOP2P_PUBLISH"), *control = need("LOOP2P_CONTROL");
    const char *imaging = need("LOOP2P_IMAGING"), *task = need("LOOP2P_TASK");
    snprintf(instance, sizeof instance, "decoding-c-%llx", (unsigned long long)now_ns());
    signal(SIGINT, on_signal);
    signal(SIGTERM, on_signal);

    void *context = zmq_ctx_new();
    publisher = zmq_socket(context, ZMQ_PUB);
    void *router = zmq_socket(context, ZMQ_ROUTER), *frames = zmq_socket(context, ZMQ_SUB);
    void *orders = zmq_socket(context, ZMQ_SUB);
    int linger_ms = 1000;
    zmq_setsockopt(publisher, ZMQ_LINGER, &linger_ms, sizeof linger_ms);
    zmq_setsockopt(router, ZMQ_LINGER, &linger_ms, sizeof linger_ms);
    must(zmq_bind(publisher, mine), mine);
    must(zmq_bind(router, control), control);
    zmq_setsockopt(frames, ZMQ_SUBSCRIBE, "imaging.traces", 14);
    zmq_setsockopt(orders, ZMQ_SUBSCRIBE, "task.selection", 14);
    zmq_setsockopt(orders, ZMQ_SUBSCRIBE, "rig.session", 11);
    must(zmq_connect(frames, imaging), imaging);
    must(zmq_connect(orders, task), task);

    int64_t beat_ns = 0;
    while (!stopping) {
        if (now_ns() >= beat_ns) { /* 20 a second: without them valve and LED are off */
            publish_heartbeat("ready");
            beat_ns = beat_ns + 2 * BEAT_MS * 1000000 > now_ns() ? beat_ns + BEAT_MS * 1000000 : now_ns();
        }
        zmq_pollitem_t items[] = {
            {orders, 0, ZMQ_POLLIN, 0}, {frames, 0, ZMQ_POLLIN, 0}, {router, 0, ZMQ_POLLIN, 0}};
        long wait_ms = (long)((beat_ns - now_ns()) / 1000000);
        if (zmq_poll(items, 3, wait_ms > 0 ? wait_ms : 0) <= 0)
            continue;
        if (items[0].revents)
            receive(orders);
        if (items[1].revents)
            receive(frames);
        if (items[2].revents)
            answer(router);
    }
    publish_heartbeat("stopped");
    zmq_close(frames);
    zmq_close(orders);
    zmq_close(router);
    zmq_close(publisher);
    zmq_ctx_term(context);
    free(decoder.f);
    return 0;
}

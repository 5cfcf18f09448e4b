// deepstream's binary protocol, as much as the generator needs: log in, build and read messages.

#include "load.h"

#include <stdio.h>
#include <string.h>

void (*ds_other)(conn *c, const ds_message *m);

static buf inner, message, template;

static void put_varint(buf *b, uint64_t v) {
  uint8_t bytes[10];
  size_t n = 0;
  while (v > 127) {
    bytes[n++] = (uint8_t)(v | 128);
    v >>= 7;
  }
  bytes[n++] = (uint8_t)v;
  put(b, bytes, n);
}

// Messages are built in one place, field by field in ascending order, then sent.
void ds_begin(int action) {
  inner.n = 0;
  ds_int(1, action);
}

void ds_text(int field, const void *p, size_t n) {
  put_varint(&inner, (uint64_t)(field << 3 | 2));
  put_varint(&inner, n);
  put(&inner, p, n);
}

void ds_int(int field, int64_t v) {
  put_varint(&inner, (uint64_t)(field << 3));
  put_varint(&inner, (uint64_t)v);
}

static void wrap(int topic) {
  buf body = {0};
  uint8_t space[32];
  body.p = space;
  body.cap = sizeof space;
  put_varint(&body, 0x10);
  put_varint(&body, (uint64_t)topic);
  put_varint(&body, 0x1a);
  put_varint(&body, inner.n);
  message.n = 0;
  put_varint(&message, body.n + inner.n);
  put(&message, body.p, body.n);
  put(&message, inner.p, inner.n);
}

void ds_send(conn *c, int topic) {
  wrap(topic);
  send_frame(c, message.p, message.n);
}

static const uint8_t *varint(const uint8_t *p, const uint8_t *end, uint64_t *v) {
  *v = 0;
  for (int shift = 0; p < end && shift < 64; shift += 7) {
    *v |= (uint64_t)(*p & 127) << shift;
    if (*p++ < 128) return p;
  }
  return NULL;
}

// Reads one field; text fields give their bytes, others their value. NULL = malformed.
static const uint8_t *field(const uint8_t *p, const uint8_t *end, uint64_t *tag, uint64_t *v,
                            const uint8_t **text) {
  p = varint(p, end, tag);
  if (p) p = varint(p, end, v);
  if (!p) return NULL;
  *text = p;
  if ((*tag & 7) == 0) return p;
  if ((*tag & 7) != 2 || *v > (uint64_t)(end - p)) return NULL;
  return p + *v;
}

bool ds_parse(const uint8_t *p, size_t n, ds_message *m) {
  // Field numbers of data, correlationId, isError, isAck, name, names; 0 = the topic has none.
  static const uint8_t layout[8][6] = {
      [CONNECTION] = {2, 0, 3, 4, 0, 0}, [AUTH] = {2, 0, 3, 4, 0, 0}, [EVENT] = {2, 3, 4, 5, 6, 7},
      [RECORD] = {2, 3, 4, 5, 6, 7},     [RPC] = {2, 3, 4, 5, 7, 6},  [PRESENCE] = {4, 5, 6, 7, 8, 9}};
  const uint8_t *end = p + n, *text, *body = NULL, *body_end = NULL;
  uint64_t tag, v;
  *m = (ds_message){.version = -2};
  p = varint(p, end, &v);
  if (!p || v != (uint64_t)(end - p)) return false;
  while (p < end) {
    p = field(p, end, &tag, &v, &text);
    if (!p) return false;
    if (tag == 0x10) m->topic = (int)v;
    if (tag == 0x1a) body = text, body_end = p;
  }
  if (!body) return false;
  if (m->topic < CONNECTION || m->topic > PRESENCE) return true;
  const uint8_t *at = layout[m->topic];
  while (body < body_end) {
    body = field(body, body_end, &tag, &v, &text);
    if (!body) return false;
    unsigned number = (unsigned)(tag >> 3);
    if (number == 1) m->action = (int)v;
    else if (number == at[0]) m->data = text, m->n_data = v;
    else if (number == at[1]) m->correlation = text, m->n_correlation = v;
    else if (number == at[2]) m->is_error = v;
    else if (number == at[3]) m->is_ack = v;
    else if (number == at[4]) m->name = text, m->n_name = v;
    else if (number == at[5]) m->names++;
    else if (m->topic == RECORD && number == 11) m->is_write_ack = v;
    else if (m->topic == RECORD && number == 12) m->path = text, m->n_path = v;
    else if (m->topic == RECORD && number == 13) m->version = (int64_t)v;
    else if (m->topic == RECORD && number == 14) m->versions++;
  }
  return true;
}

static void login(conn *c) {
  char url[64];
  int n = snprintf(url, sizeof url, "ws://127.0.0.1:%d/deepstream", server_port);
  ds_begin(5);
  ds_text(5, url, (size_t)n);
  ds_text(6, "0.1a", 4);
  ds_text(7, "7.1.0", 5);
  ds_text(8, "javascript", 10);
  ds_send(c, CONNECTION);
}

static void got(conn *c, const uint8_t *p, size_t n) {
  ds_message m;
  if (!ds_parse(p, n, &m)) fail("malformed message from the server (%zu bytes)", n);
  if (c->state == LOGGING_IN) {
    if (c->step == 0 && m.topic == CONNECTION && m.action == 4) {
      char data[64];
      int k = snprintf(data, sizeof data, *c->user ? "{\"username\":\"%s\"}" : "{}", c->user);
      c->step = 1;
      ds_begin(2);
      ds_text(2, data, (size_t)k);
      ds_send(c, AUTH);
    } else if (c->step == 1 && m.topic == AUTH && m.action == 3) {
      conn_ready(c);
    } else {
      fail("login: unexpected topic %d action %d", m.topic, m.action);
    }
  } else if (m.topic == CONNECTION && m.action == 3) {
    on.acked(c);
  } else if (m.topic == EVENT && m.action == 2 && m.data && on.delivery) {
    on.delivery(c, m.data, m.n_data);
  } else if (m.topic == EVENT && m.action == 3 && m.is_ack) {
    on.acked(c);
  } else if (ds_other) {
    ds_other(c, &m);
  } else {
    fail("unexpected topic %d action %d: %.*s", m.topic, m.action, (int)(n < 100 ? n : 100), p);
  }
}

static void subscribe(conn *c) {
  ds_begin(3);
  ds_text(3, "0", 1);
  ds_text(7, TOPIC, strlen(TOPIC));
  ds_send(c, EVENT);
}

static void emit(const char *payload, size_t n) {
  ds_begin(2);
  ds_text(2, payload, n);
  ds_text(6, TOPIC, strlen(TOPIC));
}

static void prepare(const char *payload, size_t n, int subscribers) {
  (void)subscribers;
  emit(payload, n);
  wrap(EVENT);
  expected.n = message.n;
  expected.head = load64(message.p);
  template.n = 0;
  frame_head(&template, 2, message.n);
  put(&template, message.p, message.n);
  mask(template.p + template.n - message.n, message.n);
}

static void publish(conn *c, size_t copies) {
  while (copies--) put(&c->out, template.p, template.n);
  touch(c);
}

static void publish_one(conn *c, const char *payload, size_t n) {
  emit(payload, n);
  ds_send(c, EVENT);
}

static void fence(conn *c) {
  ds_begin(2);
  ds_send(c, CONNECTION);
}

const protocol deepstream = {
    .name = "deepstream", .path = "/deepstream", .login = login, .message = got,
    .subscribe = subscribe, .prepare = prepare, .publish = publish, .publish_one = publish_one,
    .fence = fence};

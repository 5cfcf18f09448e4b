// MQTT 3.1.1 over TCP, QoS 0.

#include "load.h"

#include <stdio.h>
#include <string.h>

static buf template;
static size_t n_message;  // bytes of one delivery
static size_t n_payload;  // of which the payload, at its end
static uint64_t head;     // its first bytes

static void put_packet(buf *b, int first, const void *start, size_t n_start, const void *rest, size_t n_rest) {
  uint8_t h[5] = {(uint8_t)first};
  size_t n = n_start + n_rest, k = 1;
  do {
    h[k++] = (uint8_t)((n & 127) | (n > 127 ? 128 : 0));
    n >>= 7;
  } while (n);
  put(b, h, k);
  put(b, start, n_start);
  put(b, rest, n_rest);
}

static size_t put_name(uint8_t *at, const char *name) {
  size_t n = strlen(name);
  at[0] = (uint8_t)(n >> 8);
  at[1] = (uint8_t)n;
  memcpy(at + 2, name, n);
  return n + 2;
}

static void login(conn *c) {
  // Level 4, clean session, no keep-alive, and an id that the server chooses.
  static const uint8_t body[] = {0, 4, 'M', 'Q', 'T', 'T', 4, 2, 0, 0, 0, 0};
  put_packet(&c->out, 0x10, body, sizeof body, "", 0);
  touch(c);
}

static void answer(conn *c, int first, const uint8_t *p, size_t n) {
  if (first == 0x20 && n == 2 && p[1] == 0 && c->state == LOGGING_IN) conn_ready(c);
  else if (first == 0x90 && n == 3 && p[2] < 3) on.acked(c);
  else if (first == 0xd0 && n == 0) on.acked(c);
  else fail("MQTT: unexpected packet %02x of %zu bytes", first, n);
}

static size_t consume(conn *c, const uint8_t *start, size_t size) {
  const uint8_t *p = start, *end = start + size;
  uint64_t counted = 0;
  while (end - p >= 2) {
    size_t left = (size_t)(end - p);
    if (n_message && left >= n_message && load64(p) == head) {
      if (on.delivery) on.delivery(c, p + n_message - n_payload, n_payload);
      else counted++;
      p += n_message;
      continue;
    }
    size_t n = 0, k = 1;
    for (int shift = 0;; shift += 7) {
      if (k >= left) goto done;
      n |= (size_t)(p[k] & 127) << shift;
      if (p[k++] < 128) break;
    }
    if (left < k + n) break;
    answer(c, p[0], p + k, n);
    p += k + n;
  }
done:
  if (counted) *c->seen += counted;
  return (size_t)(p - start);
}

static void subscribe(conn *c) {
  uint8_t body[64] = {0, 1};
  size_t n = 2 + put_name(body + 2, TOPIC);
  body[n++] = 0;
  put_packet(&c->out, 0x82, body, n, "", 0);
  touch(c);
}

static void put_publish(buf *b, const char *payload, size_t n) {
  uint8_t name[64];
  put_packet(b, 0x30, name, put_name(name, TOPIC), payload, n);
}

static void prepare(const char *payload, size_t n, int subscribers) {
  (void)subscribers;
  template.n = 0;
  put_publish(&template, payload, n);
  n_message = template.n;
  n_payload = n;
  head = load64(template.p);
}

static void publish(conn *c, size_t copies) {
  while (copies--) put(&c->out, template.p, template.n);
  touch(c);
}

static void publish_one(conn *c, const char *payload, size_t n) {
  put_publish(&c->out, payload, n);
  touch(c);
}

static void fence(conn *c) {
  put(&c->out, "\xc0", 2);
  touch(c);
}

const protocol mqtt = {
    .name = "mqtt", .login = login, .consume = consume, .subscribe = subscribe, .prepare = prepare,
    .publish = publish, .publish_one = publish_one, .fence = fence};

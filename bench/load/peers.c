// The protocols of the peers: NATS over websocket, Redis pub/sub, and the broadcaster's toy protocol.

#include "load.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static buf template;     // NATS: masked text; toy: masked frame; Redis: text
static size_t n_message; // bytes of one delivery in the stream
static uint64_t head;    // its first bytes
static size_t n_payload; // of which the payload
static int receivers;    // what Redis must report for each publish

static void send_masked(conn *c, const uint8_t *masked, size_t n, size_t copies) {
  frame_head(&c->out, 2, n * copies);
  while (copies--) put(&c->out, masked, n);
  touch(c);
}

// --- NATS over websocket: a text stream cut into frames anywhere ---

static void nats_send(conn *c, const char *text) { send_frame(c, text, strlen(text)); }

static void nats_login(conn *c) { (void)c; }  // the server speaks first

// Takes whole messages from a piece of the stream; returns the bytes used.
static size_t nats_lines(conn *c, const uint8_t *start, size_t size) {
  const uint8_t *p = start, *end = start + size;
  uint64_t counted = 0;
  while (p < end) {
    size_t left = (size_t)(end - p);
    if (left >= n_message && n_message && load64(p) == head) {
      if (p[n_message - 1] != '\n') fail("NATS: message out of step");
      if (on.delivery) on.delivery(c, p + n_message - 2 - n_payload, n_payload);
      else counted++;
      p += n_message;
      continue;
    }
    const uint8_t *line_end = memmem(p, left, "\r\n", 2);
    if (!line_end) break;
    size_t n = (size_t)(line_end - p);
    if (n > 4 && !memcmp(p, "MSG ", 4)) {
      if (n_message && left >= n_message) fail("NATS: unexpected message %.*s", (int)n, p);
      break;
    }
    p = line_end + 2;
    const uint8_t *line = line_end - n;
    if (n >= 4 && !memcmp(line, "INFO", 4)) {
      if (c->step++ == 0)
        nats_send(c, "CONNECT {\"verbose\":false,\"pedantic\":false,\"lang\":\"c\",\"version\":\"1\","
                     "\"protocol\":1}\r\nPING\r\n");
    } else if (n == 4 && !memcmp(line, "PONG", 4)) {
      if (c->state == LOGGING_IN) conn_ready(c);
      else on.acked(c);
    } else if (n == 4 && !memcmp(line, "PING", 4)) {
      nats_send(c, "PONG\r\n");
    } else {
      fail("NATS: %.*s", (int)(n < 100 ? n : 100), line);
    }
  }
  if (counted) *c->seen += counted;
  return (size_t)(p - start);
}

static void nats_message(conn *c, const uint8_t *p, size_t n) {
  size_t used;
  if (!c->stream.n) {
    used = nats_lines(c, p, n);
    if (used < n) put(&c->stream, p + used, n - used);
    return;
  }
  put(&c->stream, p, n);
  used = nats_lines(c, c->stream.p, c->stream.n);
  c->stream.n -= used;
  memmove(c->stream.p, c->stream.p + used, c->stream.n);
}

static void nats_subscribe(conn *c) {
  char text[64];
  snprintf(text, sizeof text, "SUB %s 1\r\nPING\r\n", TOPIC);
  nats_send(c, text);
}

static void nats_put(buf *b, const char *payload, size_t n) {
  char text[64];
  snprintf(text, sizeof text, "PUB %s %zu\r\n", TOPIC, n);
  put_text(b, text);
  put(b, payload, n);
  put_text(b, "\r\n");
}

static void nats_prepare(const char *payload, size_t n, int subscribers) {
  (void)subscribers;
  char text[64];
  template.n = 0;
  nats_put(&template, payload, n);
  mask(template.p, template.n);
  n_message = (size_t)snprintf(text, sizeof text, "MSG %s 1 %zu\r\n", TOPIC, n) + n + 2;
  n_payload = n;
  head = load64((const uint8_t *)text);
}

static void nats_publish(conn *c, size_t copies) { send_masked(c, template.p, template.n, copies); }

static void nats_publish_one(conn *c, const char *payload, size_t n) {
  static buf b;
  b.n = 0;
  nats_put(&b, payload, n);
  send_frame(c, b.p, b.n);
}

static void nats_fence(conn *c) { nats_send(c, "PING\r\n"); }

const protocol nats = {
    .name = "nats", .path = "/", .login = nats_login, .message = nats_message,
    .subscribe = nats_subscribe, .prepare = nats_prepare, .publish = nats_publish,
    .publish_one = nats_publish_one, .fence = nats_fence};

// --- Redis pub/sub over TCP ---

static void redis_send(conn *c, const char *text) {
  put_text(&c->out, text);
  touch(c);
}

static void redis_login(conn *c) { redis_send(c, "PING\r\n"); }

static size_t redis_consume(conn *c, const uint8_t *start, size_t size) {
  const uint8_t *p = start, *end = start + size;
  uint64_t counted = 0;
  while (p < end) {
    size_t left = (size_t)(end - p);
    if (n_message && left >= n_message && load64(p) == head) {
      if (p[n_message - 1] != '\n') fail("Redis: message out of step");
      if (on.delivery) on.delivery(c, p + n_message - 2 - n_payload, n_payload);
      else counted++;
      p += n_message;
      continue;
    }
    const uint8_t *line_end = memmem(p, left, "\r\n", 2);
    if (!line_end) break;
    if (*p == ':') {
      if (atoi((const char *)p + 1) != receivers)
        fail("Redis: a publish reached %d instead of %d subscribers", atoi((const char *)p + 1), receivers);
      p = line_end + 2;
    } else if (*p == '+') {
      if (memcmp(p, "+PONG", 5)) fail("Redis: %.*s", (int)(line_end - p), p);
      p = line_end + 2;
      if (c->state == LOGGING_IN) conn_ready(c);
      else on.acked(c);
    } else if (*p == '*') {
      // *3 $9 subscribe $5 bench :1, or a message that is not complete yet
      const uint8_t *q = memmem(p, left, "\r\n:", 3);
      if (left < 22 || memcmp(p + 4, "$9\r\nsubscribe", 13)) break;
      if (!q || !memmem(q + 2, (size_t)(end - q - 2), "\r\n", 2)) break;
      p = (const uint8_t *)memmem(q + 2, (size_t)(end - q - 2), "\r\n", 2) + 2;
      on.acked(c);
    } else {
      fail("Redis: %.*s", (int)(line_end - p), p);
    }
  }
  if (counted) *c->seen += counted;
  return (size_t)(p - start);
}

static void redis_subscribe(conn *c) {
  char text[64];
  snprintf(text, sizeof text, "SUBSCRIBE %s\r\n", TOPIC);
  redis_send(c, text);
}

static void redis_put(buf *b, const char *payload, size_t n) {
  char text[96];
  snprintf(text, sizeof text, "*3\r\n$7\r\nPUBLISH\r\n$%zu\r\n%s\r\n$%zu\r\n", strlen(TOPIC), TOPIC, n);
  put_text(b, text);
  put(b, payload, n);
  put_text(b, "\r\n");
}

static void redis_prepare(const char *payload, size_t n, int subscribers) {
  char text[96];
  receivers = subscribers;
  template.n = 0;
  redis_put(&template, payload, n);
  n_message = (size_t)snprintf(text, sizeof text, "*3\r\n$7\r\nmessage\r\n$%zu\r\n%s\r\n$%zu\r\n",
                               strlen(TOPIC), TOPIC, n) + n + 2;
  n_payload = n;
  head = load64((const uint8_t *)text);
}

static void redis_publish(conn *c, size_t copies) {
  while (copies--) put(&c->out, template.p, template.n);
  touch(c);
}

static void redis_publish_one(conn *c, const char *payload, size_t n) {
  redis_put(&c->out, payload, n);
  touch(c);
}

static void redis_fence(conn *c) { redis_send(c, "PING\r\n"); }

const protocol redis = {
    .name = "redis", .login = redis_login, .consume = redis_consume, .subscribe = redis_subscribe,
    .prepare = redis_prepare, .publish = redis_publish, .publish_one = redis_publish_one,
    .fence = redis_fence};

// --- the broadcaster's toy protocol ---

static void toy_send(conn *c, const char *text) { send_frame(c, text, strlen(text)); }

// Two round trips after the upgrade, as many as challenge and login of the real protocol.
static void toy_login(conn *c) { toy_send(c, "E"); }

static void toy_message(conn *c, const uint8_t *p, size_t n) {
  if (n && p[0] == 'P' && on.delivery) on.delivery(c, p + 1, n - 1);
  else if (!n || p[0] != 'E') fail("broadcaster: unexpected message of %zu bytes", n);
  else if (c->state == READY) on.acked(c);
  else if (c->step++ == 0) toy_send(c, "E");
  else conn_ready(c);
}

static void toy_subscribe(conn *c) {
  toy_send(c, "S");
  toy_send(c, "E");
}

static void toy_prepare(const char *payload, size_t n, int subscribers) {
  (void)subscribers;
  template.n = 0;
  frame_head(&template, 2, n + 1);
  put_text(&template, "P");
  put(&template, payload, n);
  expected.n = n + 1;
  expected.head = load64(template.p + template.n - n - 1);
  mask(template.p + template.n - n - 1, n + 1);
}

static void toy_publish(conn *c, size_t copies) {
  while (copies--) put(&c->out, template.p, template.n);
  touch(c);
}

static void toy_publish_one(conn *c, const char *payload, size_t n) {
  static buf b;
  b.n = 0;
  put_text(&b, "P");
  put(&b, payload, n);
  send_frame(c, b.p, b.n);
}

static void toy_fence(conn *c) { toy_send(c, "E"); }

const protocol toy = {
    .name = "toy", .path = "/", .login = toy_login, .message = toy_message,
    .subscribe = toy_subscribe, .prepare = toy_prepare, .publish = toy_publish,
    .publish_one = toy_publish_one, .fence = toy_fence};

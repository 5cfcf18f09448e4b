// deepstream's older text protocol (v3) and its JSON protocol: log in, subscribe, publish.

#define _GNU_SOURCE
#include "load.h"

#include <stdio.h>
#include <string.h>

#define US "\x1f"
#define RS "\x1e"

static buf message, template;

static void put_frame(buf *b, const void *p, size_t n) {
  frame_head(b, 1, n);
  put(b, p, n);
  mask(b->p + b->n - n, n);
}

static void say(conn *c, const char *text) {
  put_frame(&c->out, text, strlen(text));
  touch(c);
}

static bool is(const uint8_t *p, size_t n, const char *text) {
  return n == strlen(text) && !memcmp(p, text, n);
}

static bool begins(const uint8_t *p, size_t n, const char *text) {
  return n >= strlen(text) && !memcmp(p, text, strlen(text));
}

// The prepared message arrives as it was sent.
static void ready_to_publish(void) {
  expected.n = message.n;
  expected.head = load64(message.p);
  template.n = 0;
  put_frame(&template, message.p, message.n);
}

static void publish(conn *c, size_t copies) {
  while (copies--) put(&c->out, template.p, template.n);
  touch(c);
}

// --- text: the payload is a string without its quotes, S before it ---

static const char EMIT[] = "E" US "EVT" US;

static void text_login(conn *c) { (void)c; }  // the server speaks first

static void text_got(conn *c, const uint8_t *p, size_t n) {
  size_t head = strlen(EMIT) + strlen(TOPIC) + 1;
  char data[80];
  if (is(p, n, "C" US "PI" RS)) {
    say(c, "C" US "PO" RS);
  } else if (c->state == LOGGING_IN && is(p, n, "C" US "A" RS)) {
    snprintf(data, sizeof data, *c->user ? "A" US "REQ" US "{\"username\":\"%s\"}" RS : "A" US "REQ" US "{}" RS,
             c->user);
    say(c, data);
  } else if (c->state == LOGGING_IN && begins(p, n, "A" US "A")) {
    conn_ready(c);
  } else if (is(p, n, "C" US "PO" RS) || begins(p, n, "E" US "A" US "S" US)) {
    on.acked(c);
  } else if (n > head && begins(p, n, EMIT) && on.delivery) {
    on.delivery(c, p + head, n - head);     // S and RS stand where the quotes were
  } else {
    fail("unexpected message %.*s", (int)(n < 100 ? n : 100), p);
  }
}

static void text_subscribe(conn *c) {
  char text[64];
  snprintf(text, sizeof text, "E" US "S" US "%s" RS, TOPIC);
  say(c, text);
}

static void text_emit(const char *payload, size_t n) {
  message.n = 0;
  put_text(&message, EMIT);
  put_text(&message, TOPIC);
  put_text(&message, US "S");
  put(&message, payload + 1, n - 2);
  put_text(&message, RS);
}

static void text_prepare(const char *payload, size_t n, int subscribers) {
  (void)subscribers;
  text_emit(payload, n);
  ready_to_publish();
}

static void text_publish_one(conn *c, const char *payload, size_t n) {
  text_emit(payload, n);
  put_frame(&c->out, message.p, message.n);
  touch(c);
}

static void text_fence(conn *c) { say(c, "C" US "PI" RS); }

const protocol text_v3 = {
    .name = "text", .path = "/deepstream-v3", .login = text_login, .message = text_got,
    .subscribe = text_subscribe, .prepare = text_prepare, .publish = publish, .publish_one = text_publish_one,
    .fence = text_fence};

// --- JSON ---

static const char DATA[] = ",\"parsedData\":";

static void json_login(conn *c) {
  say(c, "{\"topic\":2,\"action\":5,\"url\":\"ws://127.0.0.1/deepstream-json\",\"protocolVersion\":\"0.1a\","
         "\"sdkVersion\":\"7.1.0\",\"sdkType\":\"javascript\"}");
}

static void json_got(conn *c, const uint8_t *p, size_t n) {
  char login[96];
  if (c->state == LOGGING_IN && begins(p, n, "{\"topic\":2,\"action\":4")) {
    snprintf(login, sizeof login, "{\"topic\":3,\"action\":2,\"parsedData\":{\"username\":\"%s\"}}",
             *c->user ? c->user : "user");
    say(c, login);
  } else if (c->state == LOGGING_IN && begins(p, n, "{\"topic\":3,\"action\":3")) {
    conn_ready(c);
  } else if (begins(p, n, "{\"topic\":2,\"action\":3") || begins(p, n, "{\"topic\":4,\"action\":3")) {
    on.acked(c);
  } else if (begins(p, n, "{\"topic\":4,\"action\":2") && on.delivery) {
    const uint8_t *data = memmem(p, n, DATA, strlen(DATA));
    if (!data) fail("event without data");
    data += strlen(DATA);
    on.delivery(c, data, (size_t)(p + n - 1 - data));
  } else {
    fail("unexpected message %.*s", (int)(n < 100 ? n : 100), p);
  }
}

static void json_subscribe(conn *c) {
  char request[128];
  snprintf(request, sizeof request, "{\"topic\":4,\"action\":3,\"names\":[\"%s\"],\"correlationId\":\"0\"}", TOPIC);
  say(c, request);
}

static void json_emit(const char *payload, size_t n) {
  message.n = 0;
  put_text(&message, "{\"topic\":4,\"action\":2,\"name\":\"");
  put_text(&message, TOPIC);
  put_text(&message, "\"");
  put_text(&message, DATA);
  put(&message, payload, n);
  put_text(&message, "}");
}

static void json_prepare(const char *payload, size_t n, int subscribers) {
  (void)subscribers;
  json_emit(payload, n);
  ready_to_publish();
}

static void json_publish_one(conn *c, const char *payload, size_t n) {
  json_emit(payload, n);
  put_frame(&c->out, message.p, message.n);
  touch(c);
}

static void json_fence(conn *c) { say(c, "{\"topic\":2,\"action\":2}"); }

const protocol json_ws = {
    .name = "json", .path = "/deepstream-json", .login = json_login, .message = json_got,
    .subscribe = json_subscribe, .prepare = json_prepare, .publish = publish, .publish_one = json_publish_one,
    .fence = json_fence};

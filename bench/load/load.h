// Shared declarations of the load generator; README.md in the folder above tells what it measures.
#pragma once
#define _GNU_SOURCE
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct {
  uint8_t *p;
  size_t n, cap;
} buf;

typedef struct conn {
  int fd;
  struct ssl_st *tls;  // NULL without TLS
  enum { CONNECTING, UPGRADING, LOGGING_IN, READY, CLOSED } state;
  int step;          // of the login
  bool armed;        // EPOLLOUT is set
  bool dirty;        // is in the list of connections to flush at the end of the turn
  bool may_close;    // the server's closing it is no error
  int role;          // meaning belongs to the scenario
  size_t slot;       // index among the connections of its role
  uint64_t *seen;    // deliveries counted so far; one dense array, so that a minimum is cheap
  uint64_t opened;   // when it was opened, in ns
  char user[24];     // user name of the login, may be empty
  buf rest;          // unfinished frame of the last read
  buf out;           // bytes to send, flushed once per turn
  buf stream;        // NATS: unfinished message that spans websocket frames
} conn;

// What a peer's protocol must offer. Everything is asynchronous: answers arrive through `on`.
typedef struct {
  const char *name;
  const char *path;                            // of the websocket upgrade; NULL = plain TCP
  void (*login)(conn *c);                      // the transport is up
  void (*message)(conn *c, const uint8_t *p, size_t n);  // one websocket message
  size_t (*consume)(conn *c, const uint8_t *p, size_t n);  // plain TCP; returns the bytes used
  void (*subscribe)(conn *c);                  // to the one topic; answered by on.acked
  void (*prepare)(const char *payload, size_t n, int subscribers);  // the message to publish
  void (*publish)(conn *c, size_t copies);     // the prepared message
  void (*publish_one)(conn *c, const char *payload, size_t n);      // a message of its own
  void (*fence)(conn *c);                      // answered in order by on.acked
} protocol;

// The scenario's ears.
typedef struct {
  void (*ready)(conn *c);
  void (*acked)(conn *c);
  void (*delivery)(conn *c, const uint8_t *payload, size_t n);  // only what was not counted already
  void (*closed)(conn *c);
} listeners;

// A deepstream message as the generator needs it; absent fields are NULL, or -2 for the version.
typedef struct {
  int topic, action;
  const uint8_t *data, *correlation, *name, *path;
  size_t n_data, n_correlation, n_name, n_path;
  int64_t version;
  size_t names, versions;  // how many entries
  bool is_ack, is_error, is_write_ack;
} ds_message;

enum { CONNECTION = 2, AUTH = 3, EVENT = 4, RECORD = 5, RPC = 6, PRESENCE = 7 };

// net.c
extern listeners on;
extern const protocol *proto;
extern int server_port;
extern int use_tls;
extern size_t n_ready;
extern const char TOPIC[];
// Messages equal to this one (length and first eight bytes) are counted without a further look.
extern struct expectation { size_t n; uint64_t head; } expected;

_Noreturn void fail(const char *format, ...) __attribute__((format(printf, 1, 2)));
uint64_t now_ns(void);
void net_start(void);
void net_limit(double seconds);
conn *net_open(int role, size_t slot, const char *user);
void net_turn(int timeout_ms);
void net_close(conn *c, bool reset);
void put(buf *b, const void *p, size_t n);
void put_text(buf *b, const char *text);
void frame_head(buf *b, int opcode, size_t n);
void mask(uint8_t *p, size_t n);
void touch(conn *c);
void send_frame(conn *c, const void *p, size_t n);
void conn_ready(conn *c);
static inline uint64_t load64(const uint8_t *p) {
  uint64_t v;
  __builtin_memcpy(&v, p, 8);
  return v;
}

// deepstream.c
extern const protocol deepstream;
extern void (*ds_other)(conn *c, const ds_message *m);  // what the login and events do not use
bool ds_parse(const uint8_t *p, size_t n, ds_message *m);
void ds_begin(int action);
void ds_text(int field, const void *p, size_t n);
void ds_int(int field, int64_t v);
void ds_send(conn *c, int topic);

// text.c
extern const protocol text_v3, json_ws;

// peers.c
extern const protocol nats, redis, toy;

// mqtt.c
extern const protocol mqtt;

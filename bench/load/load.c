// The load generator: one scenario per run, one JSON line as the result.
//
//   load --protocol deepstream|text|json|nats|redis|toy|mqtt --port N --scenario NAME [options]
//
// Exit code 0 and figures, or exit code 1 and {"error": …}; a run whose message counts are not
// exactly right is an error.

#include "load.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "histogram.h"

static struct {
  const char *scenario, *action, *version;
  int subscribers, publishers, window, payload, records, size, list, ack, hold, spin, count, concurrency, names;
  int watch;  // process id of the server, for its CPU time
  double warmup, seconds, rate, limit;
} o = {
    .scenario = "fanout", .action = "patch", .version = "forced", .subscribers = 100, .publishers = 1,
    .window = 64, .payload = 64, .records = 1, .size = 100, .count = 1000, .concurrency = 64,
    .names = 1000, .warmup = 0.5, .seconds = 2, .rate = 10000, .limit = 120,
};

enum { SUBSCRIBER, PUBLISHER };

static conn **subs, **pubs;
static uint64_t *seen;  // one count per subscriber
static uint64_t other_seen;
static size_t n_acked;
static uint64_t sent;
static uint64_t expected_receivers;
static histogram latency;

// --- measuring ---

typedef struct {
  double time, own_cpu, server_cpu, server_wait;
} instant;

static double server_cpu(void) {
  char path[64], text[1024];
  if (!o.watch) return 0;
  snprintf(path, sizeof path, "/proc/%d/stat", o.watch);
  FILE *f = fopen(path, "r");
  if (!f) fail("the server is gone");
  size_t n = fread(text, 1, sizeof text - 1, f);
  fclose(f);
  text[n] = 0;
  unsigned long user = 0, system = 0;
  char *p = strrchr(text, ')');
  if (!p || sscanf(p + 2, "%*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &user, &system) != 2)
    fail("cannot read %s", path);
  return (double)(user + system) / (double)sysconf(_SC_CLK_TCK);
}

// How long the server's main thread was ready to run while something else had its core: what other work on the
// machine, or another thread of the server, has taken from it.
static double server_wait(void) {
  char path[64];
  unsigned long long waited = 0;
  if (!o.watch) return 0;
  snprintf(path, sizeof path, "/proc/%d/schedstat", o.watch);
  FILE *f = fopen(path, "r");
  if (!f) return 0;  // a kernel without this statistic
  if (fscanf(f, "%*u %llu", &waited) != 1) waited = 0;
  fclose(f);
  return (double)waited / 1e9;
}

static instant take_instant(void) {
  struct rusage r;
  getrusage(RUSAGE_SELF, &r);
  return (instant){
      .time = (double)now_ns() / 1e9,
      .own_cpu = (double)(r.ru_utime.tv_sec + r.ru_stime.tv_sec) +
                 (double)(r.ru_utime.tv_usec + r.ru_stime.tv_usec) / 1e6,
      .server_cpu = server_cpu(),
      .server_wait = server_wait(),
  };
}

// Prints the result: `rate` is what the scenario counts, per second.
static void report(instant a, instant b, uint64_t units, const char *unit, uint64_t messages) {
  double t = b.time - a.time;
  printf("{\"scenario\": \"%s\", \"rate\": %.1f, \"unit\": \"%s\", \"units\": %" PRIu64
         ", \"messages\": %" PRIu64 ", \"seconds\": %.4f, \"generator_cpu\": %.3f, \"server_cpu\": %.3f, \"server_wait\": %.3f",
         o.scenario, (double)units / t, unit, units, messages, t, (b.own_cpu - a.own_cpu) / t,
         (b.server_cpu - a.server_cpu) / t, (b.server_wait - a.server_wait) / t);
  if (latency.count)
    printf(", \"latency_ms\": {\"p50\": %.4f, \"p90\": %.4f, \"p99\": %.4f, \"p99.9\": %.4f, \"max\": %.4f, "
           "\"mean\": %.4f, \"count\": %" PRIu64 "}",
           quantile(&latency, .5) / 1e6, quantile(&latency, .9) / 1e6, quantile(&latency, .99) / 1e6,
           quantile(&latency, .999) / 1e6, (double)latency.max / 1e6,
           latency.sum / (double)latency.count / 1e6, latency.count);
  printf("}\n");
  fflush(stdout);
}

static uint64_t total_seen(void) {
  uint64_t sum = 0;
  for (int i = 0; i < o.subscribers; i++) sum += seen[i];
  return sum;
}

static uint64_t slowest(void) {
  uint64_t low = UINT64_MAX;
  for (int i = 0; i < o.subscribers; i++) low = seen[i] < low ? seen[i] : low;
  return low;
}

// Fails when nothing has moved for ten seconds; call it once a turn.
static void check_progress(uint64_t value) {
  static uint64_t last_value = UINT64_MAX, last_time;
  uint64_t t = now_ns();
  if (value != last_value) {
    last_value = value;
    last_time = t;
  } else if (t - last_time > 10000000000u) {
    fail("no progress for 10 s: %" PRIu64 " done, %" PRIu64 " sent", value, sent);
  }
}

typedef struct {
  void (*more)(void);      // fills the window
  uint64_t (*units)(void); // what is counted
  uint64_t (*done)(void);  // requests finished
} closed_loop;

// Runs a scenario: warm up, measure, stop sending, wait for everything that is in flight.
static void run_loop(closed_loop s, const char *unit) {
  uint64_t start = now_ns(), t0 = start + (uint64_t)(o.warmup * 1e9);
  uint64_t t1 = t0 + (uint64_t)(o.seconds * 1e9), units0 = 0, units1, sent0 = 0, sent1;
  bool measuring = false;
  instant a = {0}, b;
  for (;;) {
    uint64_t now = now_ns();
    if (!measuring && now >= t0) {
      measuring = true;
      units0 = s.units();
      sent0 = sent;
      a = take_instant();
    }
    if (now >= t1) break;
    s.more();
    net_turn(o.spin ? 0 : 100);
    check_progress(s.done());
  }
  units1 = s.units();
  sent1 = sent;
  b = take_instant();
  while (s.done() < sent) {
    net_turn(100);
    check_progress(s.done());
  }
  // Whatever comes now has come once too often.
  for (uint64_t until = now_ns() + 50000000; now_ns() < until;) net_turn(10);
  if (s.done() != sent) fail("%" PRIu64 " done instead of %" PRIu64, s.done(), sent);
  for (int i = 0; seen && i < o.subscribers; i++)
    if (seen[i] != sent * expected_receivers)
      fail("subscriber %d got %" PRIu64 " messages instead of %" PRIu64, i, seen[i], sent * expected_receivers);
  if (units1 <= units0) fail("nothing was done in the time measured");
  report(a, b, units1 - units0, unit, sent1 - sent0);
}

// --- connections ---

static void count_ready(conn *c) { (void)c; }
static void count_ack(conn *c) {
  (void)c;
  n_acked++;
}

static void wait_acks(size_t n) {
  while (n_acked < n) {
    net_turn(100);
    check_progress(n_acked);
  }
  if (n_acked != n) fail("%zu acknowledgements instead of %zu", n_acked, n);
  n_acked = 0;
}

static conn **open_all(int role, int n, const char *user) {
  conn **list = calloc((size_t)n + 1, sizeof *list);
  size_t before = n_ready;
  for (int i = 0; i < n; i++) {
    while ((size_t)i - (n_ready - before) >= (size_t)o.concurrency) net_turn(100);
    list[i] = net_open(role, (size_t)i, user);
    list[i]->seen = role == SUBSCRIBER && seen ? &seen[i] : &other_seen;
  }
  while (n_ready - before < (size_t)n) {
    net_turn(100);
    check_progress(n_ready);
  }
  return list;
}

static void open_subscribers(void) {
  seen = calloc((size_t)o.subscribers + 1, sizeof *seen);
  subs = open_all(SUBSCRIBER, o.subscribers, "");
}

// --- events ---

static char *json_string(int size) {
  char *text = malloc((size_t)size + 1);
  if (!text || size < 20) fail("payload of %d bytes", size);
  memset(text, 'x', (size_t)size);
  text[0] = text[size - 1] = '"';
  text[size] = 0;
  return text;
}

static void publish_more(void) {
  static size_t next;
  uint64_t flying = sent - slowest();
  if (flying >= (uint64_t)o.window) return;
  size_t n = (size_t)o.window - flying;
  sent += n;
  if (o.publishers == 1) {
    proto->publish(pubs[0], n);
    return;
  }
  while (n--) proto->publish(pubs[next++ % (size_t)o.publishers], 1);
}

static void fanout(void) {
  open_subscribers();
  for (int i = 0; i < o.subscribers; i++) proto->subscribe(subs[i]);
  wait_acks((size_t)o.subscribers);
  pubs = open_all(PUBLISHER, o.publishers, "");
  proto->prepare(json_string(o.payload), (size_t)o.payload, o.subscribers);
  expected_receivers = 1;
  run_loop((closed_loop){publish_more, total_seen, slowest}, "deliveries");
  if (other_seen) fail("a publisher got its own message");
}

// Publishes without subscribers go in batches; each batch ends with a question that the server
// answers in order, and so many batches may be unanswered.
enum { BATCH = 1024, BATCHES = 8 };

static uint64_t batches_sent;
static uint64_t ingested(void) { return n_acked * (uint64_t)BATCH; }

static void ingest_more(void) {
  while (batches_sent - n_acked < BATCHES) {
    proto->publish(pubs[0], BATCH);
    proto->fence(pubs[0]);
    sent += BATCH;
    batches_sent++;
  }
}

static void ingest(void) {
  o.subscribers = 0;
  pubs = open_all(PUBLISHER, 1, "");
  proto->prepare(json_string(o.payload), (size_t)o.payload, 0);
  run_loop((closed_loop){ingest_more, ingested, ingested}, "publishes");
}

// --- fixed rate ---

static uint64_t measured_from, measured_to;

static void timed_delivery(conn *c, const uint8_t *payload, size_t n) {
  char hex[17];
  if (n != (size_t)o.payload) fail("payload of %zu bytes", n);
  memcpy(hex, payload + 1, 16);
  hex[16] = 0;
  uint64_t due = strtoull(hex, NULL, 16);
  (*c->seen)++;
  if (due >= measured_from && due < measured_to) record_time(&latency, now_ns() - due);
}

// Every message carries the time at which it was due, not the time at which it could be sent, so a
// server that stalls the generator is charged with the whole delay ("coordinated omission").
static void fixed_rate(void) {
  open_subscribers();
  for (int i = 0; i < o.subscribers; i++) proto->subscribe(subs[i]);
  wait_acks((size_t)o.subscribers);
  pubs = open_all(PUBLISHER, 1, "");
  char *payload = json_string(o.payload);
  proto->prepare(payload, (size_t)o.payload, o.subscribers);
  expected = (struct expectation){.n = SIZE_MAX};
  on.delivery = timed_delivery;
  uint64_t start = now_ns() + 1000000;
  measured_from = start + (uint64_t)(o.warmup * 1e9);
  measured_to = measured_from + (uint64_t)(o.seconds * 1e9);
  double step = 1e9 / o.rate;
  instant a = {0}, b;
  bool measuring = false;
  uint64_t sent0 = 0, seen0 = 0;
  for (;;) {
    uint64_t now = now_ns();
    if (!measuring && now >= measured_from) {
      measuring = true;
      sent0 = sent;
      seen0 = total_seen();
      a = take_instant();
    }
    if (now >= measured_to) break;
    for (;;) {
      uint64_t due = start + (uint64_t)((double)sent * step);
      if (due > now) break;
      char hex[17];
      snprintf(hex, sizeof hex, "%016" PRIx64, due);
      memcpy(payload + 1, hex, 16);
      proto->publish_one(pubs[0], payload, (size_t)o.payload);
      sent++;
    }
    net_turn(0);
  }
  uint64_t sent1 = sent, seen1 = total_seen();
  b = take_instant();
  while (slowest() < sent) {
    net_turn(100);
    check_progress(slowest());
  }
  for (uint64_t until = now_ns() + 50000000; now_ns() < until;) net_turn(10);
  for (int i = 0; i < o.subscribers; i++)
    if (seen[i] != sent) fail("subscriber %d got %" PRIu64 " messages instead of %" PRIu64, i, seen[i], sent);
  report(a, b, seen1 - seen0, "deliveries", sent1 - sent0);
}

// --- logins ---

static void timed_ready(conn *c) { record_time(&latency, now_ns() - c->opened); }

static void logins(void) {
  conn **all = calloc((size_t)o.count, sizeof *all);
  on.ready = timed_ready;
  instant a = take_instant();
  for (size_t opened = 0; n_ready < (size_t)o.count;) {
    while (opened < (size_t)o.count && opened - n_ready < (size_t)o.concurrency) {
      all[opened] = net_open(PUBLISHER, opened, "");
      all[opened++]->seen = &other_seen;
    }
    net_turn(100);
    check_progress(n_ready);
  }
  instant b = take_instant();
  report(a, b, (uint64_t)o.count, "logins", (uint64_t)o.count);
  if (o.hold) {
    // The harness looks at the server's memory and then ends our standard input.
    while (getchar() != EOF) {
    }
  }
  for (int i = 0; i < o.count; i++) net_close(all[i], true);
}

// --- records ---

static int64_t first_version;
static uint64_t *writes;  // per record
static uint64_t answered, acks_wanted;
static char *body;        // a record's data with a place for a number of twelve digits
static size_t n_body, counter_at;
static bool is_patch;
static uint64_t reads_done;

static const char PATH[] = "items.i0500.id";
enum { CREATEANDUPDATE = 16, UPDATE = 18, PATCH = 19, WRITE_ACKNOWLEDGEMENT = 14, READ = 3,
       READ_RESPONSE = 4, HEAD = 5, HEAD_RESPONSE = 6, HEAD_RESPONSE_BULK = 8, SUBSCRIBEANDHEAD = 21,
       SUBSCRIBEANDREAD = 22, RECORD_UNSUBSCRIBE = 26 };

static void unexpected(const ds_message *m) {
  fail("unexpected topic %d action %d name %.*s data %.*s", m->topic, m->action, (int)m->n_name,
       m->name ? (const char *)m->name : "", (int)(m->n_data < 80 ? m->n_data : 80),
       m->data ? (const char *)m->data : "");
}

// The last `n` digits of a number; printf would be a good part of what a message costs here.
static void digits(char *at, int n, uint64_t v) {
  for (; n; v /= 10) at[--n] = (char)('0' + v % 10);
}

static int record_name(char *text, uint64_t i) {
  memcpy(text, "bench/record/", 13);
  digits(text + 13, 5, i);
  return 18;
}

// The record: {"items":{"i0500":{"id":100000000000}},"text":"xx…"} of `size` bytes; in large ones
// there are a thousand items. As a list: an array of names.
static void make_body(void) {
  buf b = {0};
  char text[128];
  if (o.list) {
    put_text(&b, "[");
    for (int i = 0; i < o.list; i++) {
      snprintf(text, sizeof text, "%s\"entry/%012d\"", i ? "," : "", i);
      put_text(&b, text);
    }
    put_text(&b, "]");
    counter_at = 8;
  } else {
    bool large = o.size > 50000;
    put_text(&b, "{\"items\":{");
    for (int i = large ? 0 : 500; i < (large ? 1000 : 501); i++) {
      snprintf(text, sizeof text, "%s\"i%04d\":{\"id\":", large && i ? "," : "", i);
      put_text(&b, text);
      if (i == 500) counter_at = b.n;
      put_text(&b, "100000000000");
      if (large) {
        put_text(&b, ",\"text\":\"");
        int pad = o.size / 1000 - 46;
        for (int k = 0; k < pad; k++) put_text(&b, "y");
        put_text(&b, "\"");
      }
      put_text(&b, "}");
    }
    put_text(&b, "},\"text\":\"");
    while (b.n + 2 < (size_t)o.size) put_text(&b, "x");
    put_text(&b, "\"}");
    if (b.n != (size_t)o.size) fail("a record of %d bytes cannot be made", o.size);
  }
  body = (char *)b.p;
  n_body = b.n;
}

static void set_counter(char *at, uint64_t i) { digits(at, 12, 100000000000u + i % 800000000000u); }

static void setup_answer(conn *c, const ds_message *m) {
  (void)c;
  if (m->is_error || m->topic != RECORD) unexpected(m);
  if (m->action == WRITE_ACKNOWLEDGEMENT || m->action == READ_RESPONSE) n_acked++;
  else if (m->action == HEAD_RESPONSE) first_version = m->version, n_acked++;
  else if (m->action == HEAD_RESPONSE_BULK || m->is_ack) return;
  else unexpected(m);
}

static void create_records(conn *c, int n) {
  char name[32];
  ds_other = setup_answer;
  n_acked = 0;
  for (int done = 0; done < n;) {
    int some = n - done < 100 ? n - done : 100;
    for (int i = 0; i < some; i++) {
      int k = record_name(name, (uint64_t)(done + i));
      ds_begin(CREATEANDUPDATE);
      ds_text(2, body, n_body);
      ds_text(3, name, (size_t)k);
      ds_text(6, name, (size_t)k);
      ds_int(11, 1);
      ds_int(13, -1);
      ds_send(c, RECORD);
    }
    wait_acks((size_t)some);
    done += some;
  }
}

static int64_t head_of(conn *c, uint64_t record) {
  char name[32];
  int k = record_name(name, record);
  ds_other = setup_answer;
  n_acked = 0;
  ds_begin(HEAD);
  ds_text(6, name, (size_t)k);
  ds_send(c, RECORD);
  wait_acks(1);
  return first_version;
}

static void write_answer(conn *c, const ds_message *m) {
  if (m->topic != RECORD || m->is_error) unexpected(m);
  if (c->role == SUBSCRIBER && m->action == (is_patch ? PATCH : UPDATE)) {
    // With one record every version must come, in order.
    (*c->seen)++;
    if (o.records == 1 && m->version != first_version + (int64_t)*c->seen)
      fail("a subscriber got version %" PRId64 " instead of %" PRId64, m->version,
           first_version + (int64_t)*c->seen);
  } else if (c->role == PUBLISHER && m->action == WRITE_ACKNOWLEDGEMENT) {
    answered++;
  } else {
    unexpected(m);
  }
}

// Every how many writes one asks for an acknowledgement: each one in the rows about them; without
// subscribers some, to see how far the server is; else none.
static uint64_t ack_step(void) {
  if (o.ack) return 1;
  if (o.subscribers) return 0;
  return o.window >= 4 ? (uint64_t)o.window / 4 : 1;
}

static uint64_t writes_done(void) {
  if (!ack_step()) return slowest();
  uint64_t by_ack = answered == acks_wanted ? sent : answered * ack_step();
  if (!o.subscribers) return by_ack;
  uint64_t low = slowest();
  return by_ack < low ? by_ack : low;
}

static uint64_t write_units(void) { return writes_done(); }

static void write_one(bool last_of_run) {
  char name[32], value[16], id[16];
  uint64_t record = sent % (uint64_t)o.records;
  int k = record_name(name, record);
  int64_t version = *o.version == 'f' ? -1 : first_version + 1 + (int64_t)writes[record];
  bool ack = ack_step() && ((sent + 1) % ack_step() == 0 || last_of_run);
  writes[record]++;
  sent++;
  ds_begin(is_patch ? PATCH : UPDATE);
  if (is_patch) {
    set_counter(value, sent);
    ds_text(2, value, 12);
  } else {
    set_counter(body + counter_at, sent);
    ds_text(2, body, n_body);
  }
  if (ack) {
    acks_wanted++;
    digits(id, 10, acks_wanted);
    ds_text(3, id, 10);
  }
  ds_text(6, name, (size_t)k);
  if (ack) ds_int(11, 1);
  if (is_patch) ds_text(12, PATH, sizeof PATH - 1);
  ds_int(13, version);
  ds_send(pubs[0], RECORD);
}

static void write_more(void) {
  while (sent - writes_done() < (uint64_t)o.window) write_one(false);
}

static void record_write(void) {
  char name[32];
  is_patch = *o.action == 'p';
  writes = calloc((size_t)o.records, sizeof *writes);
  make_body();
  if (is_patch && o.list) fail("lists are updated, not patched");
  pubs = open_all(PUBLISHER, 1, "");
  create_records(pubs[0], o.records);
  first_version = head_of(pubs[0], 0);
  open_subscribers();
  n_acked = 0;
  for (int i = 0; i < o.subscribers; i++) {
    ds_begin(SUBSCRIBEANDREAD);
    ds_text(3, "0", 1);
    for (int r = 0; r < o.records; r++) ds_text(7, name, (size_t)record_name(name, (uint64_t)r));
    ds_send(subs[i], RECORD);
    // a few at a time: the answer holds the whole record
    if (i % 16 == 15) wait_acks((size_t)(16 * o.records));
  }
  wait_acks((size_t)(o.subscribers % 16 * o.records));
  ds_other = write_answer;
  expected_receivers = 1;
  run_loop((closed_loop){write_more, write_units, writes_done}, "writes");
  int64_t v0 = first_version;
  for (int r = 0; r < o.records; r++) {
    int64_t v = head_of(pubs[0], (uint64_t)r);
    if (v != v0 + (int64_t)writes[r])
      fail("record %d has version %" PRId64 " after %" PRIu64 " writes from %" PRId64, r, v, writes[r], v0);
  }
}

static uint64_t count_reads(void) { return reads_done; }

static void read_answer(conn *c, const ds_message *m) {
  char name[32];
  (void)c;
  if (m->topic != RECORD || m->action != READ_RESPONSE || m->is_error) unexpected(m);
  int k = record_name(name, reads_done % (uint64_t)o.records);
  if (m->n_name != (size_t)k || memcmp(m->name, name, (size_t)k)) fail("answers out of order");
  if (m->n_data != n_body) fail("read %zu bytes instead of %zu", m->n_data, n_body);
  reads_done++;
}

static void read_more(void) {
  char name[32];
  while (sent - reads_done < (uint64_t)o.window) {
    ds_begin(READ);
    ds_text(6, name, (size_t)record_name(name, sent % (uint64_t)o.records));
    ds_send(pubs[0], RECORD);
    sent++;
  }
}

static void record_read(void) {
  o.subscribers = 0;
  make_body();
  pubs = open_all(PUBLISHER, 1, "");
  create_records(pubs[0], o.records);
  ds_other = read_answer;
  run_loop((closed_loop){read_more, count_reads, count_reads}, "reads");
}

// A bulk head subscribes as well, so after each one the same names are unsubscribed. A client waits
// for the answer before it does so; as many clients as the window is wide take turns.
static void names_request(conn *c, int action) {
  char name[32];
  ds_begin(action);
  ds_text(3, "0", 1);
  for (int i = 0; i < o.names; i++) ds_text(7, name, (size_t)record_name(name, (uint64_t)i));
  ds_send(c, RECORD);
}

static void head_answer(conn *c, const ds_message *m) {
  if (m->topic != RECORD || m->is_error) unexpected(m);
  if (m->action == HEAD_RESPONSE_BULK) {
    c->slot = m->versions;
    if (c->slot != (size_t)o.names) fail("%zu versions instead of %d", c->slot, o.names);
  } else if (m->action == SUBSCRIBEANDHEAD && m->is_ack) {
    if (c->slot != (size_t)o.names) fail("acknowledged before the versions came");
    names_request(c, RECORD_UNSUBSCRIBE);
  } else if (m->action == RECORD_UNSUBSCRIBE && m->is_ack) {
    c->slot = 0;
    c->step = 0;
    reads_done++;
  } else {
    unexpected(m);
  }
}

static void head_more(void) {
  enum { BUSY = 100 };
  for (int i = 0; i < o.window; i++) {
    if (pubs[i]->step == BUSY) continue;
    pubs[i]->step = BUSY;
    names_request(pubs[i], SUBSCRIBEANDHEAD);
    sent++;
  }
}

static void bulk_head(void) {
  o.subscribers = 0;
  make_body();
  pubs = open_all(PUBLISHER, o.window, "");
  create_records(pubs[0], o.names);
  for (int i = 0; i < o.window; i++) pubs[i]->slot = 0;
  ds_other = head_answer;
  run_loop((closed_loop){head_more, count_reads, count_reads}, "requests");
}

// --- RPC ---

enum { RPC_REQUEST = 2, RPC_ACCEPT = 4, RPC_RESPONSE = 5, RPC_PROVIDE = 8, CALLS = 1 << 16 };
enum { FREE, REQUESTED, ACCEPTED };
static uint8_t calls[CALLS];
static uint64_t calls_done;
static char *rpc_payload;

static void rpc_answer(conn *c, const ds_message *m) {
  char id[24];
  if (m->topic != RPC || m->is_error) unexpected(m);
  if (m->action == RPC_PROVIDE && m->is_ack) {
    n_acked++;
    return;
  }
  if (!m->correlation || m->n_correlation >= sizeof id) unexpected(m);
  if (c->role == SUBSCRIBER && m->action == RPC_REQUEST) {
    // the provider: accept and answer, as the official client does
    ds_begin(RPC_ACCEPT);
    ds_text(3, m->correlation, m->n_correlation);
    ds_text(7, m->name, m->n_name);
    ds_send(c, RPC);
    ds_begin(RPC_RESPONSE);
    ds_text(2, m->data, m->n_data);
    ds_text(3, m->correlation, m->n_correlation);
    ds_text(7, m->name, m->n_name);
    ds_send(c, RPC);
    return;
  }
  memcpy(id, m->correlation, m->n_correlation);
  id[m->n_correlation] = 0;
  uint8_t *state = &calls[strtoull(id, NULL, 16) % CALLS];
  if (c->role == PUBLISHER && m->action == RPC_ACCEPT && *state == REQUESTED) {
    *state = ACCEPTED;
  } else if (c->role == PUBLISHER && m->action == RPC_RESPONSE && *state == ACCEPTED) {
    if (m->n_data != (size_t)o.payload) fail("answer of %zu bytes", m->n_data);
    *state = FREE;
    calls_done++;
  } else {
    unexpected(m);
  }
}

static uint64_t count_calls(void) { return calls_done; }

static void call_more(void) {
  char id[24];
  while (sent - calls_done < (uint64_t)o.window) {
    if (calls[sent % CALLS] != FREE) fail("a call is older than %d others", CALLS);
    calls[sent % CALLS] = REQUESTED;
    int k = snprintf(id, sizeof id, "%020" PRIx64, sent);
    ds_begin(RPC_REQUEST);
    ds_text(2, rpc_payload, (size_t)o.payload);
    ds_text(3, id, (size_t)k);
    ds_text(7, TOPIC, strlen(TOPIC));
    ds_send(pubs[0], RPC);
    sent++;
  }
}

static void rpc(void) {
  rpc_payload = json_string(o.payload);
  ds_other = rpc_answer;
  o.subscribers = 1;
  conn **provider = open_all(SUBSCRIBER, 1, "");
  ds_begin(RPC_PROVIDE);
  ds_text(3, "0", 1);
  ds_text(6, TOPIC, strlen(TOPIC));
  ds_send(provider[0], RPC);
  wait_acks(1);
  pubs = open_all(PUBLISHER, 1, "");
  run_loop((closed_loop){call_more, count_calls, count_calls}, "calls");
}

// --- presence ---

enum { JOIN_ALL = 7, LEAVE_ALL = 9, SUBSCRIBE_ALL = 12 };
static uint64_t joins, leaves;
static size_t cycles_ready;

static void presence_answer(conn *c, const ds_message *m) {
  if (m->topic != PRESENCE || m->is_error) unexpected(m);
  if (m->action == SUBSCRIBE_ALL && m->is_ack) n_acked++;
  else if (c->role == SUBSCRIBER && m->action == JOIN_ALL) joins++, ++*c->seen;
  else if (c->role == SUBSCRIBER && m->action == LEAVE_ALL) leaves++, ++*c->seen;
  else unexpected(m);
}

// A user that is logged in has done its part and leaves, politely.
static void leave(conn *c) {
  static const uint8_t close_frame[] = {0x88, 0x80, 0, 0, 0, 0};
  if (c->role == SUBSCRIBER) return;
  cycles_ready++;
  put(&c->out, close_frame, sizeof close_frame);
  touch(c);
  c->may_close = true;
}

static void user_gone(conn *c) { (void)c; }

static uint64_t visits_done(void) { return slowest() / 2; }

static void visit_more(void) {
  char user[24];
  while (sent - visits_done() < (uint64_t)o.window) {
    snprintf(user, sizeof user, "user-%" PRIu64, sent);
    net_open(PUBLISHER, 0, user)->seen = &other_seen;
    sent++;
  }
}

static void presence(void) {
  ds_other = presence_answer;
  open_subscribers();
  for (int i = 0; i < o.subscribers; i++) {
    ds_begin(SUBSCRIBE_ALL);
    ds_send(subs[i], PRESENCE);
  }
  wait_acks((size_t)o.subscribers);
  on.ready = leave;
  on.closed = user_gone;
  expected_receivers = 2;
  run_loop((closed_loop){visit_more, visits_done, visits_done}, "visits");
  if (joins != leaves || joins != sent * (uint64_t)o.subscribers)
    fail("%" PRIu64 " joins and %" PRIu64 " leaves for %" PRIu64 " visits", joins, leaves, sent);
}

// --- command line ---

static void set_option(const char *key, const char *value) {
  static const struct { const char *key; int *at; } ints[] = {
      {"subscribers", &o.subscribers}, {"publishers", &o.publishers}, {"window", &o.window},
      {"payload", &o.payload}, {"records", &o.records}, {"size", &o.size}, {"list", &o.list},
      {"ack", &o.ack}, {"hold", &o.hold}, {"spin", &o.spin}, {"count", &o.count}, {"concurrency", &o.concurrency},
      {"names", &o.names}, {"watch", &o.watch}, {"port", &server_port},
      {"tls", &use_tls}};
  static const struct { const char *key; double *at; } reals[] = {
      {"warmup", &o.warmup}, {"seconds", &o.seconds}, {"rate", &o.rate}, {"limit", &o.limit}};
  static const struct { const char *key; const char **at; } texts[] = {
      {"scenario", &o.scenario}, {"action", &o.action}, {"version", &o.version}};
  static const protocol *const protocols[] = {&deepstream, &text_v3, &json_ws, &nats, &redis, &toy, &mqtt};
  for (size_t i = 0; i < sizeof ints / sizeof *ints; i++)
    if (!strcmp(key, ints[i].key)) {
      *ints[i].at = atoi(value);
      return;
    }
  for (size_t i = 0; i < sizeof reals / sizeof *reals; i++)
    if (!strcmp(key, reals[i].key)) {
      *reals[i].at = atof(value);
      return;
    }
  for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
    if (!strcmp(key, texts[i].key)) {
      *texts[i].at = value;
      return;
    }
  for (size_t i = 0; !strcmp(key, "protocol") && i < sizeof protocols / sizeof *protocols; i++)
    if (!strcmp(value, protocols[i]->name)) {
      proto = protocols[i];
      return;
    }
  fail("unknown option --%s %s", key, value);
}

int main(int argc, char **argv) {
  static const struct { const char *name; void (*run)(void); bool deepstream_only; } scenarios[] = {
      {"fanout", fanout, false}, {"ingest", ingest, false}, {"rate", fixed_rate, false},
      {"logins", logins, false}, {"write", record_write, true}, {"read", record_read, true},
      {"head", bulk_head, true}, {"rpc", rpc, true}, {"presence", presence, true}};
  proto = &deepstream;
  for (int i = 1; i < argc; i += 2) {
    if (strncmp(argv[i], "--", 2) || i + 1 == argc) fail("usage: load --option value ...");
    set_option(argv[i] + 2, argv[i + 1]);
  }
  on = (listeners){.ready = count_ready, .acked = count_ack};
  net_start();
  net_limit(o.limit);
  for (size_t i = 0; i < sizeof scenarios / sizeof *scenarios; i++)
    if (!strcmp(o.scenario, scenarios[i].name)) {
      if (scenarios[i].deepstream_only && proto != &deepstream) fail("%s has no %s", proto->name, o.scenario);
      scenarios[i].run();
      return 0;
    }
  fail("unknown scenario %s", o.scenario);
}

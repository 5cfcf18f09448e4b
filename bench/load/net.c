// Sockets, the event loop and websocket framing of the load generator.

#include "load.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#ifdef TLS
#include <openssl/ssl.h>
#endif

#include "sha1.h"

enum {
  READ_SIZE = 256 * 1024,
  REST_LIMIT = 16 * 1024 * 1024,
  EVENTS = 1024,
  SOURCES = 200,  // source addresses 127.0.1.1 to 127.0.1.200, so that ports do not run out
};

// One byte four times: a mask that does not depend on the position, so that masked messages can be
// prepared once and put anywhere in a frame. The server's work does not depend on the value.
static const uint8_t MASK = 0x37;
static const char WS_KEY[] = "ZHNmYXN0IGJlbmNobWFyaw==";
const char TOPIC[] = "bench";

listeners on;
const protocol *proto;
int server_port;
int use_tls;
size_t n_ready;
struct expectation expected = {.n = SIZE_MAX};

static int epoll_fd;
static uint8_t *input;
static conn **dirty;
static size_t n_dirty, cap_dirty;
static uint64_t give_up_at;
static char accept_value[32];
static unsigned next_source;

void fail(const char *format, ...) {
  char text[512];
  va_list args;
  va_start(args, format);
  vsnprintf(text, sizeof text, format, args);
  va_end(args);
  for (char *p = text; *p; p++)
    if (*p == '"' || *p == '\\' || (unsigned char)*p < 32) *p = '\'';
  printf("{\"error\": \"%s\"}\n", text);
  fflush(stdout);
  exit(1);
}

uint64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void *grown(void *p, size_t n) {
  p = realloc(p, n);
  if (!p) fail("out of memory");
  return p;
}

void put(buf *b, const void *p, size_t n) {
  if (b->n + n > b->cap) {
    size_t cap = b->cap ? b->cap : 256;
    while (cap < b->n + n) cap *= 2;
    b->p = grown(b->p, cap);
    b->cap = cap;
  }
  memcpy(b->p + b->n, p, n);
  b->n += n;
}

void put_text(buf *b, const char *text) { put(b, text, strlen(text)); }

void mask(uint8_t *p, size_t n) {
  for (size_t i = 0; i < n; i++) p[i] ^= MASK;
}

// Header of a masked client frame with the mask key; the payload must be masked by the caller.
void frame_head(buf *b, int opcode, size_t n) {
  uint8_t h[14] = {(uint8_t)(0x80 | opcode)};
  size_t k = 2;
  if (n < 126) {
    h[1] = (uint8_t)(0x80 | n);
  } else if (n < 65536) {
    h[1] = 0x80 | 126;
    h[2] = (uint8_t)(n >> 8);
    h[3] = (uint8_t)n;
    k = 4;
  } else {
    h[1] = 0x80 | 127;
    for (int i = 0; i < 8; i++) h[2 + i] = (uint8_t)((uint64_t)n >> (56 - 8 * i));
    k = 10;
  }
  memset(h + k, MASK, 4);
  put(b, h, k + 4);
}

void touch(conn *c) {
  if (c->dirty) return;
  c->dirty = true;
  if (n_dirty == cap_dirty) {
    cap_dirty = cap_dirty ? 2 * cap_dirty : 256;
    dirty = grown(dirty, cap_dirty * sizeof *dirty);
  }
  dirty[n_dirty++] = c;
}

void send_frame(conn *c, const void *p, size_t n) {
  frame_head(&c->out, 2, n);
  put(&c->out, p, n);
  mask(c->out.p + c->out.n - n, n);
  touch(c);
}

void conn_ready(conn *c) {
  c->state = READY;
  n_ready++;
  on.ready(c);
}

static void watch(conn *c, int op, bool armed) {
  struct epoll_event ev = {.events = EPOLLIN | (armed ? EPOLLOUT : 0), .data.ptr = c};
  c->armed = armed;
  if (epoll_ctl(epoll_fd, op, c->fd, &ev)) fail("epoll_ctl: %s", strerror(errno));
}

static void tls_end(conn *c);

void net_close(conn *c, bool reset) {
  if (c->state == CLOSED) return;
  if (reset) {
    struct linger l = {.l_onoff = 1, .l_linger = 0};
    setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &l, sizeof l);
  }
  tls_end(c);
  close(c->fd);
  c->state = CLOSED;
  free(c->rest.p);
  free(c->out.p);
  free(c->stream.p);
  c->rest = c->out = c->stream = (buf){0};
}

static void lost(conn *c, const char *why) {
  static const char *const names[] = {"connecting", "upgrading", "logging in", "ready"};
  if (!c->may_close) fail("connection lost while %s: %s", names[c->state], why);
  net_close(c, false);
  if (on.closed) on.closed(c);
}

#ifdef TLS
static SSL_CTX *tls_context;

// What SSL_read and SSL_write say, in the words of recv and send.
static ssize_t tls_result(conn *c, int n) {
  if (n > 0) return n;
  int error = SSL_get_error(c->tls, n);
  errno = error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE ? EAGAIN : EPROTO;
  return error == SSL_ERROR_ZERO_RETURN ? 0 : -1;
}

static void tls_begin(conn *c) {
  if (!use_tls) return;
  if (!tls_context) {
    tls_context = SSL_CTX_new(TLS_client_method());
    SSL_CTX_set_mode(tls_context, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
  }
  c->tls = SSL_new(tls_context);
  if (!c->tls || !SSL_set_fd(c->tls, c->fd)) fail("cannot begin TLS");
  SSL_set_connect_state(c->tls);
}

static ssize_t give(conn *c, const void *p, size_t n) {
  if (!c->tls) return send(c->fd, p, n, MSG_NOSIGNAL);
  return tls_result(c, SSL_write(c->tls, p, (int)n));
}

// As many records as fit, so that a turn takes as much as without TLS.
static ssize_t take(conn *c, uint8_t *p, size_t n) {
  if (!c->tls) return recv(c->fd, p, n, 0);
  size_t have = 0;
  for (;;) {
    ssize_t r = tls_result(c, SSL_read(c->tls, p + have, (int)(n - have)));
    if (r <= 0) return have ? (ssize_t)have : r;
    have += (size_t)r;
    if (n - have < 16384) return (ssize_t)have;
  }
}

static bool tls_is_up(conn *c) { return !c->tls || SSL_is_init_finished(c->tls); }

static void tls_end(conn *c) { SSL_free(c->tls); }
#else
static void tls_begin(conn *c) {
  (void)c;
  if (use_tls) fail("built without OpenSSL (libssl-dev)");
}
static ssize_t give(conn *c, const void *p, size_t n) { return send(c->fd, p, n, MSG_NOSIGNAL); }
static ssize_t take(conn *c, uint8_t *p, size_t n) { return recv(c->fd, p, n, 0); }
static bool tls_is_up(conn *c) { return c->fd >= 0; }
static void tls_end(conn *c) { (void)c; }
#endif

static void flush(conn *c) {
  while (c->out.n) {
    ssize_t w = give(c, c->out.p, c->out.n);
    if (w < 0) {
      if (errno == EAGAIN) break;
      lost(c, strerror(errno));
      return;
    }
    if ((size_t)w < c->out.n) memmove(c->out.p, c->out.p + w, c->out.n - (size_t)w);
    c->out.n -= (size_t)w;
  }
  bool armed = c->out.n != 0 && tls_is_up(c);  // the handshake waits for the server, not for room
  if (armed != c->armed) watch(c, EPOLL_CTL_MOD, armed);
}

static void transport_up(conn *c) {
  tls_begin(c);
  if (!proto->path) {
    c->state = LOGGING_IN;
    proto->login(c);
    return;
  }
  char request[256];
  int n = snprintf(request, sizeof request,
                   "GET %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                   "Sec-WebSocket-Key: %s\r\nSec-WebSocket-Version: 13\r\n\r\n",
                   proto->path, server_port, WS_KEY);
  put(&c->out, request, (size_t)n);
  c->state = UPGRADING;
  touch(c);
}

static size_t upgraded(conn *c, const uint8_t *p, size_t n) {
  const uint8_t *end = memmem(p, n, "\r\n\r\n", 4);
  if (!end) return 0;
  size_t used = (size_t)(end + 4 - p);
  if (memcmp(p, "HTTP/1.1 101", 12)) fail("upgrade refused: %.*s", (int)(n < 60 ? n : 60), p);
  if (!memmem(p, used, accept_value, strlen(accept_value))) fail("wrong Sec-WebSocket-Accept");
  c->state = LOGGING_IN;
  proto->login(c);
  return used;
}

// Takes every complete frame; returns the bytes used.
static size_t frames(conn *c, const uint8_t *start, size_t size) {
  const uint8_t *p = start, *end = start + size;
  uint64_t counted = 0;
  while (end - p >= 2) {
    size_t head = 2, n = p[1];
    if (n == 126) {
      if (end - p < 4) break;
      n = (size_t)p[2] << 8 | p[3];
      head = 4;
    } else if (n == 127) {
      if (end - p < 10) break;
      n = 0;
      for (int i = 0; i < 8; i++) n = n << 8 | p[2 + i];
      head = 10;
    } else if (n > 127) {
      fail("masked frame from the server");
    }
    if ((size_t)(end - p) < head || (size_t)(end - p) - head < n) break;
    const uint8_t *body = p + head;
    int opcode = p[0] & 15;
    p = body + n;
    if (n == expected.n && load64(body) == expected.head) {
      counted++;
      continue;
    }
    switch (opcode) {
      case 0:
      case 1:
      case 2:
        proto->message(c, body, n);
        if (c->state == CLOSED) return size;
        break;
      case 8:
        lost(c, "websocket close frame");
        return size;
      case 9:
        frame_head(&c->out, 10, n);
        put(&c->out, body, n);
        mask(c->out.p + c->out.n - n, n);
        touch(c);
        break;
      case 10: break;
      default: fail("websocket opcode %d", opcode);
    }
  }
  if (counted) *c->seen += counted;
  return (size_t)(p - start);
}

static void readable(conn *c) {
  size_t kept = c->rest.n;
  if (kept) memcpy(input, c->rest.p, kept);
  ssize_t r = take(c, input + kept, READ_SIZE);
  if (c->tls && c->out.n) touch(c);
  if (r <= 0) {
    if (r < 0 && errno == EAGAIN) return;
    lost(c, r ? strerror(errno) : "closed by the server");
    return;
  }
  size_t n = kept + (size_t)r, used = 0;
  if (c->state == UPGRADING) used = upgraded(c, input, n);
  if (c->state == LOGGING_IN || c->state == READY)
    used += proto->path ? frames(c, input + used, n - used) : proto->consume(c, input + used, n - used);
  if (c->state == CLOSED) return;
  c->rest.n = 0;
  if (n - used > REST_LIMIT) fail("message too long");
  if (n > used) put(&c->rest, input + used, n - used);
}

void net_start(void) {
  signal(SIGPIPE, SIG_IGN);
  struct rlimit limit;
  getrlimit(RLIMIT_NOFILE, &limit);
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
  epoll_fd = epoll_create1(EPOLL_CLOEXEC);
  input = grown(NULL, REST_LIMIT + READ_SIZE);
  websocket_accept(WS_KEY, strlen(WS_KEY), accept_value);
}

void net_limit(double seconds) { give_up_at = now_ns() + (uint64_t)(seconds * 1e9); }

conn *net_open(int role, size_t slot, const char *user) {
  conn *c = calloc(1, sizeof *c);
  if (!c) fail("out of memory");
  c->role = role;
  c->slot = slot;
  c->opened = now_ns();
  snprintf(c->user, sizeof c->user, "%s", user);
  c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (c->fd < 0) fail("socket: %s", strerror(errno));
  int one = 1;
  setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  setsockopt(c->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
  struct sockaddr_in from = {.sin_family = AF_INET,
                             .sin_addr.s_addr = htonl(0x7f000101 + next_source++ % SOURCES)};
  struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)server_port),
                           .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  if (bind(c->fd, (struct sockaddr *)&from, sizeof from)) fail("bind: %s", strerror(errno));
  bool pending = connect(c->fd, (struct sockaddr *)&to, sizeof to) != 0;
  if (pending && errno != EINPROGRESS) fail("connect: %s", strerror(errno));
  watch(c, EPOLL_CTL_ADD, pending);
  if (!pending) transport_up(c);
  return c;
}

// One turn of the loop: read every readable connection once, then write every touched one once.
void net_turn(int timeout_ms) {
  static struct epoll_event events[EVENTS];
  for (size_t i = 0; i < n_dirty; i++) {
    dirty[i]->dirty = false;
    if (dirty[i]->state != CLOSED && dirty[i]->state != CONNECTING) flush(dirty[i]);
  }
  n_dirty = 0;
  int n = epoll_wait(epoll_fd, events, EVENTS, timeout_ms);
  for (int i = 0; i < n; i++) {
    conn *c = events[i].data.ptr;
    if (c->state == CLOSED) continue;
    if (c->state == CONNECTING) {
      int error = 0;
      socklen_t size = sizeof error;
      getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &size);
      if (error) fail("connect: %s", strerror(error));
      watch(c, EPOLL_CTL_MOD, false);
      transport_up(c);
      continue;
    }
    if (events[i].events & EPOLLOUT) touch(c);
    if (events[i].events & ~(uint32_t)EPOLLOUT) readable(c);
  }
  if (give_up_at && now_ns() > give_up_at) fail("time limit reached");
}

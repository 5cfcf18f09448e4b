// A minimal websocket broadcaster: what this machine can do when a server knows no protocol at all
// and writes once per connection per tick. It is the yardstick of the benchmark, not a server.
//
//   broadcaster PORT
//
// The toy protocol, one message per websocket frame, told apart by its first byte:
//   'S'    this connection subscribes
//   'P...' is sent on to every subscriber as it is (to the sender too, if it subscribes)
//   'E...' is sent back to the sender
//
// One tick = one epoll_wait and one read of every readable connection. All messages of a tick are
// collected in one shared buffer, which is then written to each subscriber with one send().

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "../load/sha1.h"

enum { READ_SIZE = 256 * 1024, EVENTS = 1024, BACKLOG_LIMIT = 64 * 1024 * 1024 };

typedef struct {
  uint8_t *p;
  size_t n, cap;
} buf;

typedef struct conn {
  int fd;
  int upgraded, subscribed, waiting;  // waiting: EPOLLOUT is armed
  size_t slot;                        // place in `subscribers`
  buf rest;                           // unfinished frame of the last read
  buf out;                            // echoes of this tick and what the socket did not take
} conn;

static int epoll_fd;
static conn **subscribers;
static size_t n_subscribers, cap_subscribers;
static buf tick;
static uint8_t *input;

static void *grown(void *p, size_t n) {
  p = realloc(p, n);
  if (!p) {
    perror("realloc");
    exit(1);
  }
  return p;
}

static void put(buf *b, const void *p, size_t n) {
  if (b->n + n > b->cap) {
    size_t cap = b->cap ? b->cap : 256;
    while (cap < b->n + n) cap *= 2;
    b->p = grown(b->p, cap);
    b->cap = cap;
  }
  memcpy(b->p + b->n, p, n);
  b->n += n;
}

static void put_frame(buf *b, const uint8_t *p, size_t n) {
  uint8_t h[10] = {0x82};
  size_t k = 2;
  if (n < 126) {
    h[1] = (uint8_t)n;
  } else if (n < 65536) {
    h[1] = 126;
    h[2] = (uint8_t)(n >> 8);
    h[3] = (uint8_t)n;
    k = 4;
  } else {
    h[1] = 127;
    for (int i = 0; i < 8; i++) h[2 + i] = (uint8_t)((uint64_t)n >> (56 - 8 * i));
    k = 10;
  }
  put(b, h, k);
  put(b, p, n);
}

static void arm(conn *c, int waiting) {
  if (c->waiting == waiting) return;
  c->waiting = waiting;
  struct epoll_event ev = {.events = EPOLLIN | (waiting ? EPOLLOUT : 0), .data.ptr = c};
  epoll_ctl(epoll_fd, EPOLL_CTL_MOD, c->fd, &ev);
}

// Sends bytes, keeping what the socket does not take. Errors show up as the end of the input later.
static void send_all(conn *c, const uint8_t *p, size_t n) {
  if (!c->out.n) {
    ssize_t w = send(c->fd, p, n, MSG_NOSIGNAL);
    if (w < 0) {
      if (errno != EAGAIN) return;
      w = 0;
    }
    p += w;
    n -= (size_t)w;
    if (!n) return;
  }
  if (c->out.n + n > BACKLOG_LIMIT) {
    shutdown(c->fd, SHUT_RDWR);
    return;
  }
  put(&c->out, p, n);
  arm(c, 1);
}

static void flush_backlog(conn *c) {
  ssize_t w = send(c->fd, c->out.p, c->out.n, MSG_NOSIGNAL);
  if (w <= 0) return;
  c->out.n -= (size_t)w;
  memmove(c->out.p, c->out.p + w, c->out.n);
  if (!c->out.n) arm(c, 0);
}

static void subscribe(conn *c) {
  if (c->subscribed) return;
  if (n_subscribers == cap_subscribers) {
    cap_subscribers = cap_subscribers ? 2 * cap_subscribers : 64;
    subscribers = grown(subscribers, cap_subscribers * sizeof *subscribers);
  }
  c->subscribed = 1;
  c->slot = n_subscribers;
  subscribers[n_subscribers++] = c;
}

static void drop(conn *c) {
  if (c->subscribed) {
    subscribers[c->slot] = subscribers[--n_subscribers];
    subscribers[c->slot]->slot = c->slot;
  }
  close(c->fd);
  free(c->rest.p);
  free(c->out.p);
  free(c);
}

// Answers the upgrade request; returns the bytes used, 0 if it is not complete, -1 if it is wrong.
static ssize_t upgrade(conn *c, uint8_t *p, size_t n) {
  uint8_t *end = memmem(p, n, "\r\n\r\n", 4);
  if (!end) return n > 8192 ? -1 : 0;
  *end = 0;
  char *key = strcasestr((char *)p, "\r\nsec-websocket-key:");
  if (!key) return -1;
  key += strlen("\r\nsec-websocket-key:");
  while (*key == ' ') key++;
  size_t len = strcspn(key, " \r");
  char accept[32], answer[256];
  websocket_accept(key, len, accept);
  int k = snprintf(answer, sizeof answer,
                   "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                   "Sec-WebSocket-Accept: %s\r\n\r\n", accept);
  c->upgraded = 1;
  send_all(c, (uint8_t *)answer, (size_t)k);
  return end + 4 - p;
}

static void unmask(uint8_t *p, size_t n, const uint8_t *key) {
  uint32_t k32;
  memcpy(&k32, key, 4);
  uint64_t k64 = (uint64_t)k32 << 32 | k32, v;
  size_t i = 0;
  for (; i + 8 <= n; i += 8) {
    memcpy(&v, p + i, 8);
    v ^= k64;
    memcpy(p + i, &v, 8);
  }
  for (; i < n; i++) p[i] ^= key[i & 3];
}

// Handles every complete frame; returns the bytes used or -1 to end the connection.
static ssize_t frames(conn *c, uint8_t *start, size_t n) {
  uint8_t *p = start, *end = start + n;
  buf echo = {0};
  ssize_t result;
  for (;;) {
    if (end - p < 6) break;
    size_t head = 2, len = p[1] & 127;
    if (!(p[1] & 128) || (p[0] & 15) == 8) return -1;
    if (len == 126) {
      if (end - p < 8) break;
      len = (size_t)p[2] << 8 | p[3];
      head = 4;
    } else if (len == 127) {
      if (end - p < 14) break;
      len = 0;
      for (int i = 0; i < 8; i++) len = len << 8 | p[2 + i];
      head = 10;
    }
    if ((size_t)(end - p) < head + 4 + len) break;
    uint8_t *body = p + head + 4;
    unmask(body, len, p + head);
    p = body + len;
    if (!len) continue;
    if (body[0] == 'P') put_frame(&tick, body, len);
    else if (body[0] == 'E') put_frame(&echo, body, len);
    else if (body[0] == 'S') subscribe(c);
  }
  result = p - start;
  if (echo.n) send_all(c, echo.p, echo.n);
  free(echo.p);
  return result;
}

// Reads once and handles what arrived; returns 0 when the connection is finished.
static int readable(conn *c) {
  size_t kept = c->rest.n;
  if (kept) memcpy(input, c->rest.p, kept);
  ssize_t r = recv(c->fd, input + kept, READ_SIZE, 0);
  if (r < 0) return errno == EAGAIN;
  if (r == 0) return 0;
  size_t n = kept + (size_t)r, used = 0;
  if (!c->upgraded) {
    input[n] = 0;
    ssize_t k = upgrade(c, input, n);
    if (k < 0) return 0;
    used = (size_t)k;
  }
  if (c->upgraded) {
    ssize_t k = frames(c, input + used, n - used);
    if (k < 0) return 0;
    used += (size_t)k;
  }
  c->rest.n = 0;
  if (n - used > READ_SIZE) return 0;
  if (n > used) put(&c->rest, input + used, n - used);
  return 1;
}

static void accept_all(int listener) {
  for (;;) {
    int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0) return;
    int one = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    conn *c = calloc(1, sizeof *c);
    if (!c) exit(1);
    c->fd = fd;
    struct epoll_event ev = {.events = EPOLLIN, .data.ptr = c};
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &ev);
  }
}

int main(int argc, char **argv) {
  if (argc != 2) {
    fprintf(stderr, "usage: broadcaster PORT\n");
    return 2;
  }
  signal(SIGPIPE, SIG_IGN);
  struct rlimit limit;
  getrlimit(RLIMIT_NOFILE, &limit);
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);

  int one = 1, listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(argv[1])),
                          .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  if (bind(listener, (struct sockaddr *)&a, sizeof a) || listen(listener, 4096)) {
    perror("broadcaster");
    return 1;
  }
  epoll_fd = epoll_create1(EPOLL_CLOEXEC);
  struct epoll_event ev = {.events = EPOLLIN, .data.ptr = NULL};
  epoll_ctl(epoll_fd, EPOLL_CTL_ADD, listener, &ev);
  input = grown(NULL, 2 * READ_SIZE + 1);

  static struct epoll_event events[EVENTS];
  for (;;) {
    int n = epoll_wait(epoll_fd, events, EVENTS, -1);
    for (int i = 0; i < n; i++) {
      conn *c = events[i].data.ptr;
      if (!c) {
        accept_all(listener);
        continue;
      }
      if (events[i].events & EPOLLOUT) flush_backlog(c);
      if ((events[i].events & ~EPOLLOUT) && !readable(c)) drop(c);
    }
    if (tick.n) {
      for (size_t i = 0; i < n_subscribers; i++) send_all(subscribers[i], tick.p, tick.n);
      tick.n = 0;
    }
  }
}

// SHA-1 of a short text and the Sec-WebSocket-Accept value made of it (RFC 6455, section 4.2.2).
#pragma once
#include <stdint.h>
#include <string.h>

static inline uint32_t sha1_rotate(uint32_t x, int n) { return x << n | x >> (32 - n); }

// `n` must be at most 119 bytes (two blocks), which is more than a handshake needs.
static inline void sha1_short(const uint8_t *p, size_t n, uint8_t out[20]) {
  uint8_t block[128] = {0};
  uint32_t h[5] = {0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476, 0xc3d2e1f0};
  size_t total = n < 56 ? 64 : 128;
  memcpy(block, p, n);
  block[n] = 0x80;
  for (int i = 0; i < 8; i++) block[total - 1 - i] = (uint8_t)((uint64_t)n * 8 >> (8 * i));
  for (size_t at = 0; at < total; at += 64) {
    uint32_t w[80], a = h[0], b = h[1], c = h[2], d = h[3], e = h[4];
    for (int i = 0; i < 16; i++) {
      const uint8_t *q = block + at + 4 * i;
      w[i] = (uint32_t)q[0] << 24 | (uint32_t)q[1] << 16 | (uint32_t)q[2] << 8 | q[3];
    }
    for (int i = 16; i < 80; i++) w[i] = sha1_rotate(w[i - 3] ^ w[i - 8] ^ w[i - 14] ^ w[i - 16], 1);
    for (int i = 0; i < 80; i++) {
      uint32_t f, k;
      if (i < 20) f = (b & c) | (~b & d), k = 0x5a827999;
      else if (i < 40) f = b ^ c ^ d, k = 0x6ed9eba1;
      else if (i < 60) f = (b & c) | (b & d) | (c & d), k = 0x8f1bbcdc;
      else f = b ^ c ^ d, k = 0xca62c1d6;
      uint32_t t = sha1_rotate(a, 5) + f + e + k + w[i];
      e = d, d = c, c = sha1_rotate(b, 30), b = a, a = t;
    }
    h[0] += a, h[1] += b, h[2] += c, h[3] += d, h[4] += e;
  }
  for (int i = 0; i < 20; i++) out[i] = (uint8_t)(h[i / 4] >> (24 - 8 * (i % 4)));
}

// Writes the 28 characters of the accept value and a final zero to `out`; an overlong key gives "".
static inline void websocket_accept(const char *key, size_t n, char out[32]) {
  static const char guid[] = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
  static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  uint8_t text[119], sum[21];
  out[0] = 0;
  if (n + sizeof guid - 1 > sizeof text) return;
  memcpy(text, key, n);
  memcpy(text + n, guid, sizeof guid - 1);
  sha1_short(text, n + sizeof guid - 1, sum);
  sum[20] = 0;
  for (int i = 0; i < 7; i++) {
    uint32_t v = (uint32_t)sum[3 * i] << 16 | (uint32_t)sum[3 * i + 1] << 8 | sum[3 * i + 2];
    for (int k = 0; k < 4; k++) out[4 * i + k] = digits[v >> (18 - 6 * k) & 63];
  }
  out[27] = '=';
  out[28] = 0;
}

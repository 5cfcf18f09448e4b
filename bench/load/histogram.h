// A histogram of times in ns with buckets of equal relative width (under 1 %), in the manner of
// HdrHistogram: for every power of two 128 linear buckets.
#pragma once
#include <stdint.h>

enum { SUB_BITS = 7, SUB = 1 << SUB_BITS, BUCKETS = 64 * SUB };

typedef struct {
  uint64_t count, max;
  double sum;
  uint64_t bucket[BUCKETS];
} histogram;

static inline void record_time(histogram *h, uint64_t ns) {
  unsigned shift = ns < SUB ? 0 : 63 - SUB_BITS - (unsigned)__builtin_clzll(ns) + 1;
  unsigned at = ns < SUB ? (unsigned)ns : (shift << SUB_BITS) + (unsigned)(ns >> (shift - 1)) - SUB;
  h->bucket[at]++;
  h->count++;
  h->sum += (double)ns;
  if (ns > h->max) h->max = ns;
}

// The upper edge, in ns, of the bucket below which the share `q` of the values lies; 0 when empty.
static inline double quantile(const histogram *h, double q) {
  uint64_t need = (uint64_t)(q * (double)h->count + 0.9999999), sum = 0;
  if (!h->count) return 0;
  if (!need) need = 1;
  for (unsigned i = 0; i < BUCKETS; i++) {
    sum += h->bucket[i];
    if (sum < need) continue;
    if (i < SUB) return i;
    unsigned shift = i >> SUB_BITS;
    double edge = (double)(((uint64_t)(i & (SUB - 1)) + SUB + 1) << (shift - 1));
    return edge < (double)h->max ? edge : (double)h->max;
  }
  return (double)h->max;
}

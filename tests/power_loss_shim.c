// Preloaded into a process, writes down what that does to the files of one directory (test_power_loss.py).
//
// RECORDED_DIRECTORY names the directory, RECORDED_TRACE the file that gets one entry per change:
// kind, length of the name, length of the data, offset or size (1, 1, 4 and 8 bytes in the machine's order), name,
// data. Kinds: W write, T truncation, B a sync begins, S it is done, D deleted. An entry follows its change, so
// it precedes all that its thread does afterwards; each is appended by one call, so they do not mix.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { FILES = 1024, NAME = 64 };
static char names[FILES][NAME];  // of the open files that are recorded; empty for others
static const char *directory;
static size_t directory_length;
static int trace = -1;

#define REAL(result, function, ...) ((result(*)(__VA_ARGS__))dlsym(RTLD_NEXT, #function))

__attribute__((constructor)) static void start(void) {
  const char *path = getenv("RECORDED_TRACE");
  directory = getenv("RECORDED_DIRECTORY");
  if (!path || !directory) abort();
  directory_length = strlen(directory);
  trace = REAL(int, open, const char *, int, ...)(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
  if (trace < 0) abort();
}

// The name of a path inside the directory, NULL for others; shared memory is not on the disk.
static const char *recorded(const char *path) {
  if (!directory || strncmp(path, directory, directory_length) || path[directory_length] != '/') return NULL;
  const char *name = path + directory_length + 1;
  size_t n = strlen(name);
  if (!n || n >= NAME || strchr(name, '/') || (n > 4 && !strcmp(name + n - 4, "-shm"))) return NULL;
  return name;
}

static const char *name_of(int fd) { return fd >= 0 && fd < FILES && names[fd][0] ? names[fd] : NULL; }

static void note(char kind, const char *name, uint64_t at, const void *data, uint32_t n) {
  uint8_t head[14] = {(uint8_t)kind, (uint8_t)strlen(name)};
  memcpy(head + 2, &n, 4);
  memcpy(head + 6, &at, 8);
  struct iovec parts[] = {{head, sizeof head}, {(void *)name, head[1]}, {(void *)data, n}};
  if (writev(trace, parts, 3) != (ssize_t)(sizeof head + head[1] + n)) abort();
}

static int opened(int fd, const char *path, int flags) {
  const char *name = fd >= 0 && fd < FILES ? recorded(path) : NULL;
  if (!name) return fd;
  strcpy(names[fd], name);
  if (flags & O_TRUNC) note('T', name, 0, "", 0);
  return fd;
}

#define OPEN(function)                                                   \
  int function(const char *path, int flags, ...) {                       \
    va_list more;                                                        \
    va_start(more, flags);                                               \
    mode_t mode = flags & O_CREAT ? va_arg(more, mode_t) : 0;            \
    va_end(more);                                                        \
    return opened(REAL(int, function, const char *, int, ...)(path, flags, mode), path, flags); \
  }
OPEN(open)
OPEN(open64)

int close(int fd) {
  if (fd >= 0 && fd < FILES) names[fd][0] = 0;
  return REAL(int, close, int)(fd);
}

ssize_t write(int fd, const void *data, size_t n) {
  ssize_t done = REAL(ssize_t, write, int, const void *, size_t)(fd, data, n);
  const char *name = name_of(fd);
  if (name && done > 0) note('W', name, (uint64_t)(lseek(fd, 0, SEEK_CUR) - done), data, (uint32_t)done);
  return done;
}

#define PWRITE(function)                                                                        \
  ssize_t function(int fd, const void *data, size_t n, off_t at) {                              \
    ssize_t done = REAL(ssize_t, function, int, const void *, size_t, off_t)(fd, data, n, at);  \
    const char *name = name_of(fd);                                                             \
    if (name && done > 0) note('W', name, (uint64_t)at, data, (uint32_t)done);                  \
    return done;                                                                                \
  }
PWRITE(pwrite)
PWRITE(pwrite64)

#define FTRUNCATE(function)                                       \
  int function(int fd, off_t size) {                              \
    int result = REAL(int, function, int, off_t)(fd, size);       \
    const char *name = name_of(fd);                               \
    if (name && !result) note('T', name, (uint64_t)size, "", 0);  \
    return result;                                                \
  }
FTRUNCATE(ftruncate)
FTRUNCATE(ftruncate64)

#define SYNC(function)                                \
  int function(int fd) {                              \
    const char *name = name_of(fd);                   \
    if (name) note('B', name, 0, "", 0);              \
    int result = REAL(int, function, int)(fd);        \
    if (name && !result) note('S', name, 0, "", 0);   \
    return result;                                    \
  }
SYNC(fsync)
SYNC(fdatasync)

int unlink(const char *path) {
  int result = REAL(int, unlink, const char *)(path);
  const char *name = recorded(path);
  if (name && !result) note('D', name, 0, "", 0);
  return result;
}

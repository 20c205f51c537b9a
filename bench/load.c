/* load: a mock OpenAI-compatible engine and a closed-loop load generator, both on epoll with one thread.
 *
 *   load serve CHUNKS INTERVAL_US        prints its port, then streams CHUNKS events, INTERVAL_US apart (0: all at once)
 *   load run HOST PORT KEY MODEL PARALLEL REQUESTS STREAM SECONDS
 *
 * `run` prints one line of JSON: ok, errors, seconds, per_second, events_per_second, and latencies in milliseconds. STREAM is 0 or 1;
 * an answer counts as ok when its status is 200 and it is whole. It stops after SECONDS in any case.
 * Build: gcc -O2 -o load load.c
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define MAX_FD 65536
#define BATCH 1024

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec + t.tv_nsec * 1e-9;
}

static void prepare(int fd) {
  int one = 1;
  fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
}

struct buffer {
  char *data;
  size_t length, capacity, read;
};

static void reserve(struct buffer *b, size_t more) {
  if (b->length + more + 1 <= b->capacity) return;
  b->capacity = (b->length + more + 1) * 2;
  b->data = realloc(b->data, b->capacity);
  if (!b->data) abort();
}

static void append(struct buffer *b, const char *data, size_t length) {
  if (b->read == b->length) b->read = b->length = 0;
  reserve(b, length);
  memcpy(b->data + b->length, data, length);
  b->length += length;
  b->data[b->length] = 0;
}

static void watch(int ep, int op, int fd, uint32_t events) {
  struct epoll_event e = {.events = events, .data.fd = fd};
  epoll_ctl(ep, op, fd, &e);
}

/* ---------------------------------------------------------------- the engine */

struct peer {
  struct buffer in, out;
  int left, listed, writing;
  double next;
};
static struct peer peers[MAX_FD];
static int live[MAX_FD], live_count, chunks, interval_us;

static const char *HEAD = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
#define EVENT "data: {\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"created\":1700000000,\"model\":\"mock\",\"choices\":"
static const char *JSON =
    "{\"id\":\"chatcmpl-1\",\"object\":\"chat.completion\",\"created\":1700000000,\"model\":\"mock\",\"choices\":[{\"index\":0,"
    "\"message\":{\"role\":\"assistant\",\"content\":\"Hello, this is a mock completion of a modest length.\"},"
    "\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":10,\"completion_tokens\":12,\"total_tokens\":22}}";

static void chunk(struct peer *p, const char *data, int length) {
  char size[16];
  append(&p->out, size, snprintf(size, sizeof size, "%x\r\n", length));
  append(&p->out, data, length);
  append(&p->out, "\r\n", 2);
}

static void emit(struct peer *p) {
  char e[512];
  int i = chunks - p->left;
  chunk(p, e, snprintf(e, sizeof e, EVENT "[{\"index\":0,\"delta\":{\"content\":\" tok%d\"},\"finish_reason\":null}]}\n\n", i));
  if (--p->left) return;
  chunk(p, e, snprintf(e, sizeof e, EVENT "[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n"));
  chunk(p, e, snprintf(e, sizeof e, EVENT "[],\"usage\":{\"prompt_tokens\":10,\"completion_tokens\":%d,\"total_tokens\":%d}}\n\n", chunks, chunks + 10));
  chunk(p, "data: [DONE]\n\n", 14);
  append(&p->out, "0\r\n\r\n", 5);
}

static int push(int ep, int fd) {
  struct peer *p = &peers[fd];
  while (p->out.read < p->out.length) {
    ssize_t n = write(fd, p->out.data + p->out.read, p->out.length - p->out.read);
    if (n < 0) {
      if (errno != EAGAIN) return -1;
      if (!p->writing) watch(ep, EPOLL_CTL_MOD, fd, EPOLLIN | EPOLLOUT);
      p->writing = 1;
      return 0;
    }
    p->out.read += n;
  }
  if (p->writing) watch(ep, EPOLL_CTL_MOD, fd, EPOLLIN);
  p->writing = 0;
  return 0;
}

static const char *MODELS =
    "{\"object\":\"list\",\"data\":[{\"id\":\"mock\",\"object\":\"model\",\"created\":1,\"owned_by\":\"mock\",\"max_model_len\":8192}]}";

static void whole(struct peer *p, const char *json) {
  char head[160];
  append(&p->out, head, snprintf(head, sizeof head, "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %zu\r\n\r\n", strlen(json)));
  append(&p->out, json, strlen(json));
}

static void answer(struct peer *p, const char *head, const char *body) {
  if (!strncmp(head, "GET ", 4)) { /* what gateways look at before they trust an engine */
    whole(p, strncmp(head + 4, "/v1/models", 10) ? "{\"status\":\"ok\"}" : MODELS);
    return;
  }
  if (memmem(body, strlen(body), "\"stream\":true", 13) || memmem(body, strlen(body), "\"stream\": true", 14)) {
    append(&p->out, HEAD, strlen(HEAD));
    p->left = chunks;
    if (!interval_us) while (p->left) emit(p);
    else {
      emit(p);
      p->next = now() + interval_us * 1e-6;
    }
    return;
  }
  whole(p, JSON);
}

static void requests(struct peer *p) {
  struct buffer *in = &p->in;
  for (;;) {
    char *start = in->data + in->read, *end = memmem(start, in->length - in->read, "\r\n\r\n", 4);
    if (!end) return;
    size_t head = end - start + 4, length = 0;
    *end = 0;
    char *field = strcasestr(start, "\r\ncontent-length:");
    if (field) length = strtoul(field + 17, 0, 10);
    *end = '\r';
    if (in->length - in->read < head + length) return;
    char saved = start[head + length];
    start[head + length] = 0;
    answer(p, start, start + head);
    start[head + length] = saved;
    in->read += head + length;
  }
}

static void forget(int fd) {
  peers[fd].left = 0;
  close(fd);
}

static int serve(void) {
  int listener = socket(AF_INET, SOCK_STREAM, 0), ep = epoll_create1(0);
  struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  socklen_t size = sizeof a;
  if (bind(listener, (void *)&a, sizeof a) || listen(listener, 4096) || getsockname(listener, (void *)&a, &size)) return perror("bind"), 1;
  printf("%d\n", ntohs(a.sin_port));
  fflush(stdout);
  prepare(listener);
  watch(ep, EPOLL_CTL_ADD, listener, EPOLLIN);
  static struct epoll_event events[BATCH];
  for (;;) {
    int n = epoll_wait(ep, events, BATCH, live_count ? 1 : -1);
    for (int i = 0; i < n; i++) {
      int fd = events[i].data.fd;
      if (fd == listener) {
        for (int c; (c = accept(listener, 0, 0)) >= 0;) {
          if (c >= MAX_FD) { close(c); continue; }
          prepare(c);
          peers[c].in.length = peers[c].in.read = peers[c].out.length = peers[c].out.read = 0;
          peers[c].left = peers[c].writing = 0;
          watch(ep, EPOLL_CTL_ADD, c, EPOLLIN);
        }
        continue;
      }
      struct peer *p = &peers[fd];
      int dead = 0;
      for (;;) {
        char piece[65536];
        ssize_t got = read(fd, piece, sizeof piece);
        if (got <= 0) { dead = got == 0 || errno != EAGAIN; break; }
        append(&p->in, piece, got);
      }
      if (!dead) requests(p);
      if (!dead && interval_us && p->left && !p->listed) { p->listed = 1; live[live_count++] = fd; }
      if (dead || push(ep, fd)) forget(fd);
    }
    double t = now();
    for (int k = 0; k < live_count; k++) {
      int fd = live[k], wrote = 0;
      struct peer *p = &peers[fd];
      while (p->left && p->next <= t) { emit(p); p->next += interval_us * 1e-6; wrote = 1; }
      if (wrote && push(ep, fd)) forget(fd);
      if (!p->left) { p->listed = 0; live[k--] = live[--live_count]; }
    }
  }
}

/* ---------------------------------------------------------------- the clients */

struct client {
  int fd, state, status, chunked, closes; /* state: 0 connecting, 1 asking, 2 done */
  long left;
  struct buffer in;
  size_t scanned, body;
  double asked, first;
};
static struct client *clients;
static int owner[MAX_FD], poller;
static struct sockaddr_in target;
static char *request;
static size_t request_length;

static int by_size(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

static double at(double *values, int count, double share) { return count ? values[(int)(share * (count - 1))] * 1e3 : 0; }

static int dial(int index) {
  struct client *c = &clients[index];
  c->fd = socket(AF_INET, SOCK_STREAM, 0);
  if (c->fd < 0 || c->fd >= MAX_FD) return fprintf(stderr, "no more sockets\n"), -1;
  prepare(c->fd);
  owner[c->fd] = index;
  c->state = 0;
  c->in.length = c->in.read = 0;
  connect(c->fd, (void *)&target, sizeof target);
  watch(poller, EPOLL_CTL_ADD, c->fd, EPOLLOUT);
  return 0;
}

static void ask(struct client *c) {
  c->in.length = c->in.read = c->scanned = c->body = 0;
  c->first = 0;
  c->status = c->chunked = c->closes = 0;
  c->left = -1;
  c->state = 1;
  c->asked = now();
  for (size_t sent = 0; sent < request_length;) {
    ssize_t n = write(c->fd, request + sent, request_length - sent);
    if (n < 0 && errno != EAGAIN) break;
    if (n > 0) sent += n;
  }
  watch(poller, EPOLL_CTL_MOD, c->fd, EPOLLIN);
}

/* Returns 1 when the answer is whole. */
static int progress(struct client *c, long *events) {
  if (!c->body) {
    char *end = c->in.length ? memmem(c->in.data, c->in.length, "\r\n\r\n", 4) : 0;
    if (!end) return 0;
    *end = 0;
    c->status = atoi(c->in.data + 9);
    char *field = strcasestr(c->in.data, "\r\ncontent-length:");
    if (field) c->left = strtol(field + 17, 0, 10);
    c->chunked = strcasestr(c->in.data, "\r\ntransfer-encoding: chunked") != 0;
    c->closes = strcasestr(c->in.data, "\r\nconnection: close") != 0;
    c->body = c->scanned = end - c->in.data + 4;
  }
  size_t from = c->scanned > c->body + 5 ? c->scanned - 5 : c->body;
  for (char *hit, *p = c->in.data + from; (hit = memmem(p, c->in.data + c->in.length - p, "data: ", 6)); p = hit + 6)
    if ((size_t)(hit + 6 - c->in.data) > c->scanned) { ++*events; if (!c->first) c->first = now(); }
  c->scanned = c->in.length;
  if (c->in.length > c->body && !c->first && !c->chunked) c->first = now();
  if (c->left >= 0) return (long)(c->in.length - c->body) >= c->left;
  return c->chunked && c->in.length >= c->body + 5 && !memcmp(c->in.data + c->in.length - 5, "0\r\n\r\n", 5);
}

static int run(char **v) {
  int parallel = atoi(v[6]), total = atoi(v[7]), stream = atoi(v[8]);
  double limit = atof(v[9]);
  char body[2048], words[401];
  for (int i = 0; i < 400; i++) words[i] = i % 6 == 5 ? ' ' : 'a';
  words[400] = 0;
  int length = snprintf(body, sizeof body, "{\"model\":\"%s\",\"messages\":[{\"role\":\"user\",\"content\":\"%s\"}],\"max_tokens\":64,\"stream\":%s}",
                        v[5], words, stream ? "true" : "false");
  request = malloc(4096);
  request_length = snprintf(request, 4096, "POST /v1/chat/completions HTTP/1.1\r\nhost: %s:%s\r\ncontent-type: application/json\r\n"
                            "authorization: Bearer %s\r\ncontent-length: %d\r\n\r\n%s", v[2], v[3], v[4], length, body);
  target.sin_family = AF_INET;
  target.sin_port = htons(atoi(v[3]));
  inet_pton(AF_INET, v[2], &target.sin_addr);
  poller = epoll_create1(0);
  clients = calloc(parallel, sizeof *clients);
  double *firsts = malloc(sizeof(double) * (total + parallel)), *wholes = malloc(sizeof(double) * (total + parallel));
  int done = 0, errors = 0, started = 0, seen = 0;
  long events_seen = 0;
  for (int i = 0; i < parallel; i++) if (dial(i)) return 1;
  static struct epoll_event events[BATCH];
  double began = now();
  while (done + errors < total && now() - began < limit) {
    int n = epoll_wait(poller, events, BATCH, 200);
    for (int i = 0; i < n; i++) {
      struct client *c = &clients[owner[events[i].data.fd]];
      if (c->state == 0) {
        if (events[i].events & (EPOLLERR | EPOLLHUP)) { errors++; close(c->fd); if (errors < total && dial(c - clients)) return 1; continue; }
        if (started < total) { started++; ask(c); } else { c->state = 2; watch(poller, EPOLL_CTL_DEL, c->fd, 0); }
        continue;
      }
      if (c->state != 1) continue;
      int closed = 0;
      for (;;) {
        char piece[65536];
        ssize_t got = read(c->fd, piece, sizeof piece);
        if (got <= 0) { closed = got == 0 || errno != EAGAIN; break; }
        append(&c->in, piece, got);
      }
      int whole = progress(c, &events_seen);
      if (!whole && !closed) continue;
      if (whole && c->status == 200) {
        firsts[done] = (c->first ? c->first : now()) - c->asked;
        wholes[done++] = now() - c->asked;
      } else {
        errors++;
        if (!seen++) fprintf(stderr, "first error: status %d, %.300s\n", c->status, c->in.length ? c->in.data + c->body : "(nothing)");
      }
      if (closed || c->closes || !whole) { close(c->fd); if (started < total && dial(c - clients)) return 1; continue; }
      if (started < total) { started++; ask(c); } else c->state = 2;
    }
  }
  double seconds = now() - began;
  qsort(firsts, done, sizeof(double), by_size);
  qsort(wholes, done, sizeof(double), by_size);
  printf("{\"ok\":%d,\"errors\":%d,\"seconds\":%.4f,\"per_second\":%.2f,\"events_per_second\":%.1f,\"first_p50\":%.4f,\"first_p99\":%.4f,"
         "\"whole_p50\":%.4f,\"whole_p99\":%.4f}\n", done, errors, seconds, done / seconds, events_seen / seconds, at(firsts, done, .5),
         at(firsts, done, .99), at(wholes, done, .5), at(wholes, done, .99));
  return 0;
}

int main(int argc, char **argv) {
  signal(SIGPIPE, SIG_IGN);
  struct rlimit files;
  getrlimit(RLIMIT_NOFILE, &files);
  files.rlim_cur = files.rlim_max;
  setrlimit(RLIMIT_NOFILE, &files);
  if (argc == 4 && !strcmp(argv[1], "serve")) {
    chunks = atoi(argv[2]);
    interval_us = atoi(argv[3]);
    return serve();
  }
  if (argc == 10 && !strcmp(argv[1], "run")) return run(argv);
  fprintf(stderr, "usage: load serve CHUNKS INTERVAL_US | load run HOST PORT KEY MODEL PARALLEL REQUESTS STREAM SECONDS\n");
  return 2;
}

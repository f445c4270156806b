// podsvc: what a port can do to those who come to it, one behaviour each. A thread serves each connection.
#include <arpa/inet.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

enum { BLOCK = 64 * 1024 };

static int put(int to, const char *bytes, size_t length) {
    while (length > 0) {
        ssize_t n = send(to, bytes, length, MSG_NOSIGNAL);
        if (n < 0) return -1;
        bytes += n;
        length -= n;
    }
    return 0;
}

static void echo(int peer) {
    char block[BLOCK];
    ssize_t n;
    while ((n = recv(peer, block, sizeof block, 0)) > 0 && put(peer, block, n) == 0) {}
}

static _Atomic uintmax_t discarded_bytes;

static void discard(int peer) {
    char block[BLOCK];
    ssize_t n;
    while ((n = recv(peer, block, sizeof block, 0)) > 0) discarded_bytes += n;
}

// Answers every line with the number of bytes that all connections of discard() have brought so far.
static void discarded(int peer) {
    char block[64], c;
    while (recv(peer, &c, 1, 0) == 1) {
        if (c == '\n' && put(peer, block, snprintf(block, sizeof block, "%ju\n", discarded_bytes)) != 0) return;
    }
}

static void zeros(int peer) {
    static const char block[BLOCK];
    while (put(peer, block, sizeof block) == 0) {}
}

// Says nothing before it has seen the end; a reset is none.
static void count(int peer) {
    char block[BLOCK];
    uintmax_t total = 0;
    ssize_t n;
    while ((n = recv(peer, block, sizeof block, 0)) > 0) total += n;
    if (n == 0) put(peer, block, snprintf(block, sizeof block, "%ju\n", total));
}

// Takes as many bytes as the first line says, and then says how many: an answer that needs no end of input.
static void take(int peer) {
    char block[BLOCK];
    uintmax_t wanted = 0, total = 0;
    char c = 0;
    while (recv(peer, &c, 1, 0) == 1 && c >= '0' && c <= '9') wanted = wanted * 10 + (c - '0');
    while (c == '\n' && total < wanted) {
        ssize_t n = recv(peer, block, sizeof block, 0);
        if (n <= 0) return;
        total += n;
    }
    put(peer, block, snprintf(block, sizeof block, "%ju\n", total));
}

static void line(int peer) { put(peer, "one line\n", 9); }

static void end(int peer) { (void)peer; }

static void reset(int peer) {
    struct linger none = {.l_onoff = 1, .l_linger = 0};
    setsockopt(peer, SOL_SOCKET, SO_LINGER, &none, sizeof none);
}

static void never_read(int peer) {
    (void)peer;
    for (;;) pause();
}

static const struct port {
    uint16_t number;
    in_addr_t address;
    void (*serve)(int);
} ports[] = {
    {7, INADDR_ANY, echo},
    {9, INADDR_ANY, discard},
    {10, INADDR_ANY, discarded},
    {19, INADDR_ANY, zeros},
    {1010, INADDR_ANY, count},
    {1011, INADDR_ANY, take},
    {1013, INADDR_ANY, line},
    {1014, INADDR_ANY, end},
    {1015, INADDR_ANY, reset},
    {1020, INADDR_ANY, never_read},
    {1021, INADDR_LOOPBACK, echo},
};
enum { PORTS = sizeof ports / sizeof *ports };

static int listeners[PORTS];

static void fail(const char *what) {
    perror(what);
    _exit(1);
}

static void detach(void *(*run)(void *), intptr_t argument) {
    pthread_t thread;
    if (pthread_create(&thread, NULL, run, (void *)argument) != 0) fail("podsvc: thread");
    pthread_detach(thread);
}

// A connection and its port, in one word.
static void *serve(void *argument) {
    intptr_t both = (intptr_t)argument;
    int peer = both / PORTS;
    ports[both % PORTS].serve(peer);
    close(peer);
    return NULL;
}

static void *accept_all(void *argument) {
    intptr_t index = (intptr_t)argument;
    for (;;) {
        int peer = accept(listeners[index], NULL, NULL);
        if (peer >= 0) detach(serve, (intptr_t)peer * PORTS + index);
    }
    return NULL;
}

static void stop(int signal) {
    (void)signal;
    _exit(0);
}

int main(void) {
    signal(SIGTERM, stop); // which does nothing to process 1 by default
    for (int i = 0; i < PORTS; i++) {
        struct sockaddr_in at = {AF_INET, htons(ports[i].number), {htonl(ports[i].address)}, {0}};
        int on = 1;
        listeners[i] = socket(AF_INET, SOCK_STREAM, 0);
        setsockopt(listeners[i], SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
        if (bind(listeners[i], (struct sockaddr *)&at, sizeof at) != 0 || listen(listeners[i], 1024) != 0) fail("podsvc: listen");
    }
    for (int i = 0; i < PORTS; i++) detach(accept_all, i);
    for (;;) pause();
}

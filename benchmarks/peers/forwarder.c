/* The floor: a program that starts a server and copies bytes both ways, looking at none of them. */
#include <poll.h>
#include <unistd.h>

static int copy(int from, int to) {
    char buffer[65536];
    ssize_t got = read(from, buffer, sizeof buffer);
    for (ssize_t done = 0; done < got;) {
        ssize_t n = write(to, buffer + done, (size_t)(got - done));
        if (n <= 0) return 0;
        done += n;
    }
    return got > 0;
}

int main(int argc, char **argv) {
    int in[2], out[2];
    if (argc < 2 || pipe(in) || pipe(out)) return 1;
    if (fork() == 0) {
        dup2(in[0], 0), dup2(out[1], 1);
        close(in[1]), close(out[0]);
        execv(argv[1], argv + 1);
        _exit(127);
    }
    close(in[0]), close(out[1]);
    struct pollfd both[2] = {{0, POLLIN, 0}, {out[0], POLLIN, 0}};
    for (;;) {
        if (poll(both, 2, -1) < 0) return 1;
        if (both[0].revents && !copy(0, in[1])) return 0;
        if (both[1].revents && !copy(out[0], 1)) return 0;
    }
}

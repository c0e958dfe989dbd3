/* Counts calls that read or change files below a folder, and spoils the n-th of them.

   Loaded with LD_PRELOAD. All processes of a case share one struct, the file that FAULTS_STATE
   names: so one that is started by another goes on counting. injection.py writes and reads it. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { COUNT, KILL_BEFORE, KILL_AFTER, KILL_HALF, FAIL };

struct state {
    long at, action, error, for_good; /* asked: which call, what happens, errno, from then on too */
    long calls, fired;                /* answered: calls so far, how many of them were spoiled */
    char operation[32], path[512];    /* the first that was spoiled */
    char folder[512];                 /* nothing outside of it counts; empty for nothing at all */
};

static struct state *state;

__attribute__((constructor)) static void start(void) {
    const char *name = getenv("FAULTS_STATE");
    int file = name ? syscall(SYS_openat, AT_FDCWD, name, O_RDWR | O_CLOEXEC) : -1;
    if (file < 0) return;
    void *found = mmap(NULL, sizeof *state, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (found != MAP_FAILED) state = found;
    close(file);
}

static const char *absolute(int folder, const char *path, char *buffer) {
    char link[64];
    if (path && path[0] == '/') return path;
    if (folder == AT_FDCWD) strcpy(link, "/proc/self/cwd");
    else snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
    ssize_t length = readlink(link, buffer, 2048);
    buffer[length < 0 ? 0 : length] = 0;
    if (path) strcat(strcat(buffer, "/"), path);
    return buffer;
}

/* Returns what to do with a call, COUNT for nothing. */
static int turn(const char *operation, int folder, const char *path) {
    char buffer[8192];
    int before = errno;
    if (!state || !state->folder[0] || (path && strlen(path) > 4096)) return COUNT;
    path = absolute(folder, path, buffer);
    errno = before;
    size_t length = strlen(state->folder);
    if (strncmp(path, state->folder, length) || (path[length] && path[length] != '/')) return COUNT;
    long call = __sync_add_and_fetch(&state->calls, 1);
    if (call != state->at && !(state->for_good && state->at && call > state->at)) return COUNT;
    if (__sync_add_and_fetch(&state->fired, 1) == 1) {
        snprintf(state->operation, sizeof state->operation, "%s", operation);
        strncpy(state->path, path, sizeof state->path - 1);
    }
    if (state->action == KILL_BEFORE) kill(0, SIGKILL);
    return state->action;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define SPOIL(operation, folder, path, call) \
    int todo = turn(operation, folder, path); \
    if (todo == FAIL) return errno = state->error, -1; \
    __typeof__(call) result = call; \
    if (todo > COUNT) kill(0, SIGKILL); \
    return result;
/* The same of calls that can end half way. */
#define HALVE(operation, file, size, whole, half) \
    int todo = turn(operation, file, NULL); \
    if (todo == FAIL) return errno = state->error, -1; \
    ssize_t result = todo == KILL_HALF ? half : whole; \
    if (todo > COUNT) kill(0, SIGKILL); \
    return result;

#define OPEN(name) \
    int name(const char *path, int flags, ...) { \
        va_list rest; va_start(rest, flags); mode_t mode = va_arg(rest, int); va_end(rest); \
        if (!(flags & (O_WRONLY | O_RDWR | O_CREAT | O_TRUNC))) \
            return REAL(name)(path, flags, mode); \
        SPOIL("open", AT_FDCWD, path, REAL(name)(path, flags, mode)) \
    }
#define OPENAT(name) \
    int name(int folder, const char *path, int flags, ...) { \
        va_list rest; va_start(rest, flags); mode_t mode = va_arg(rest, int); va_end(rest); \
        if (!(flags & (O_WRONLY | O_RDWR | O_CREAT | O_TRUNC))) \
            return REAL(name)(folder, path, flags, mode); \
        SPOIL("open", folder, path, REAL(name)(folder, path, flags, mode)) \
    }
#define PREAD(name, offset_t) \
    ssize_t name(int file, void *to, size_t size, offset_t at) { \
        SPOIL("read", file, NULL, REAL(name)(file, to, size, at)) \
    }
#define PWRITE(name, offset_t) \
    ssize_t name(int file, const void *from, size_t size, offset_t at) { \
        HALVE("pwrite", file, size, REAL(name)(file, from, size, at), \
              REAL(name)(file, from, size / 2, at)) \
    }
#define TRUNCATE(name, offset_t) \
    int name(int file, offset_t size) { SPOIL("ftruncate", file, NULL, REAL(name)(file, size)) }

OPEN(open)
OPEN(open64)
OPENAT(openat)
OPENAT(openat64)
PREAD(pread, off_t)
PREAD(pread64, off64_t)
PWRITE(pwrite, off_t)
PWRITE(pwrite64, off64_t)
TRUNCATE(ftruncate, off_t)
TRUNCATE(ftruncate64, off64_t)
ssize_t read(int file, void *to, size_t size) { SPOIL("read", file, NULL, REAL(read)(file, to, size)) }
ssize_t write(int file, const void *from, size_t size) {
    HALVE("write", file, size, REAL(write)(file, from, size), REAL(write)(file, from, size / 2))
}
int fsync(int file) { SPOIL("fsync", file, NULL, REAL(fsync)(file)) }
int fdatasync(int file) { SPOIL("fsync", file, NULL, REAL(fdatasync)(file)) }
int flock(int file, int how) { SPOIL("flock", file, NULL, REAL(flock)(file, how)) }
int rename(const char *from, const char *to) { SPOIL("rename", AT_FDCWD, to, REAL(rename)(from, to)) }
int renameat(int a, const char *from, int b, const char *to) {
    SPOIL("rename", b, to, REAL(renameat)(a, from, b, to))
}
int unlink(const char *path) { SPOIL("unlink", AT_FDCWD, path, REAL(unlink)(path)) }
int unlinkat(int folder, const char *path, int flags) {
    SPOIL(flags & AT_REMOVEDIR ? "rmdir" : "unlink", folder, path,
          REAL(unlinkat)(folder, path, flags))
}
int mkdir(const char *path, mode_t mode) { SPOIL("mkdir", AT_FDCWD, path, REAL(mkdir)(path, mode)) }
int mkdirat(int folder, const char *path, mode_t mode) {
    SPOIL("mkdir", folder, path, REAL(mkdirat)(folder, path, mode))
}
int rmdir(const char *path) { SPOIL("rmdir", AT_FDCWD, path, REAL(rmdir)(path)) }

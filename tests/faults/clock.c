/* A wall clock that is wrong, for processes that are started with this library in LD_PRELOAD.

   The file that FAULTS_CLOCK names holds three doubles: by how many seconds the clock is off, how fast it runs, and since
   when it does so, in seconds since the epoch. They may change at any time. The monotonic clock is left alone, and so is
   whatever sleeps; with libfaketime, Python's time.sleep() fails then. */

#define _GNU_SOURCE
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static const volatile double *setting;

int clock_gettime(clockid_t clock, struct timespec *time) {
    if (syscall(SYS_clock_gettime, clock, time) != 0) return -1;
    if (setting == NULL || (clock != CLOCK_REALTIME && clock != CLOCK_REALTIME_COARSE)) return 0;
    double now = time->tv_sec + time->tv_nsec / 1e9;
    double shift = setting[0] + (now - setting[2]) * (setting[1] - 1);
    double seconds = floor(shift + time->tv_nsec / 1e9);
    time->tv_nsec = (long)((shift + time->tv_nsec / 1e9 - seconds) * 1e9);
    time->tv_sec += (time_t)seconds;
    return 0;
}

int gettimeofday(struct timeval *restrict time, void *restrict zone) {
    (void)zone;
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    time->tv_sec = now.tv_sec;
    time->tv_usec = now.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *result) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (result != NULL) *result = now.tv_sec;
    return now.tv_sec;
}

__attribute__((constructor)) static void open_setting(void) {
    const char *path = getenv("FAULTS_CLOCK");
    int file = path == NULL ? -1 : open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0) return;
    void *mapped = mmap(NULL, 3 * sizeof(double), PROT_READ, MAP_SHARED, file, 0);
    if (mapped != MAP_FAILED) setting = mapped;
    close(file);
}

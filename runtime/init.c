/* The image's first process: starts the run, waits for it, and passes on signals and its exit code.
 *
 *     init PYTHON -I -S -B ENTRYPOINT [ARG...]
 *
 * The run gets `--init-fd N` before its own arguments: a socket on which it sends the listener of its seccomp
 * filter (seccomp_unotify(2)) once it is locked down. When the first call is denied, and only then, init starts
 * the supervisor that names it: a run that is denied nothing does not wait for a second interpreter. Nothing
 * that comes out of the jail is read here.
 *
 * In C, and linked statically with musl, because every cold start waits for it: 0.1 ms, where a process of
 * Python costs 9.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define SUPERVISOR "/sandbox/supervisor.pyc"
#define USAGE 208    /* these two are runtime/failure.py's */
#define INTERNAL 223
#define COMMAND_WORDS 5 /* PYTHON -I -S -B ENTRYPOINT */
#define MAX_WORDS 16384
#define LAST_WORDS_MS 2000 /* what a supervisor may take to write its last counts */

static sigset_t all_signals, old_signals;
static int signals, channel, run_pidfd, listener = -1, stacks = -1, status = -1;
static pid_t run, supervisor;
static char mode[16];

static void fail(const char *what)
{
    dprintf(2, "sandbox: error: init: %s: %m\n", what);
    _exit(INTERNAL);
}

/* `descriptor`, moved from the place of a standard stream that is closed: that is for the run to refuse. */
static int above_two(int descriptor)
{
    int moved = descriptor;

    if (descriptor >= 0 && descriptor < 3) {
        moved = fcntl(descriptor, F_DUPFD, 3);
        close(descriptor);
    }
    return moved;
}

static pid_t start(char **argv, char **environment, const sigset_t *blocked)
{
    pid_t child = vfork();

    if (child == 0) {
        sigprocmask(SIG_SETMASK, blocked, 0);
        execve(argv[0], argv, environment);
        fail(argv[0]);
    }
    return child;
}

/* Whoever reads the run's output, writes its input or waits for its status shall not wait for us. */
static void close_inherited(void)
{
    const int kept[] = {2, signals, channel, run_pidfd};
    unsigned first = 0;

    for (;;) {
        unsigned next = ~0u;
        for (size_t i = 0; i < sizeof kept / sizeof *kept; i++)
            if (kept[i] >= 0 && (unsigned)kept[i] >= first && (unsigned)kept[i] < next)
                next = kept[i];
        if (first < next)
            syscall(SYS_close_range, first, next - 1, 0);
        if (next == ~0u)
            return;
        first = next + 1;
    }
}

static void start_run(int argc, char **argv, char **environment)
{
    char *words[MAX_WORDS], number[16];
    int pair[2], have_channel, count = 0, own = syscall(SYS_pidfd_open, getpid(), 0);

    if (argc <= COMMAND_WORDS || argc > MAX_WORDS - 3) {
        dprintf(2, "sandbox: error: usage: init PYTHON -I -S -B ENTRYPOINT [ARG...], at most %d words\n", MAX_WORDS - 3);
        _exit(USAGE);
    }
    /* Without either, denied calls stay without a name. */
    have_channel = own >= 0 && socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair) == 0;
    close(own);
    if (have_channel) {
        pair[0] = above_two(pair[0]);
        pair[1] = above_two(pair[1]);
        have_channel = pair[0] >= 0 && pair[1] >= 0;
    }
    for (int i = 1; i < argc; i++) {
        words[count++] = argv[i];
        if (i == COMMAND_WORDS && have_channel) {
            snprintf(number, sizeof number, "%d", pair[1]);
            words[count++] = "--init-fd";
            words[count++] = number;
        }
    }
    words[count] = 0;
    channel = have_channel ? pair[0] : -1;
    fcntl(channel, F_SETFD, FD_CLOEXEC);
    run = start(words, environment, &old_signals);
    if (run < 0)
        fail("the run could not be started");
    if (have_channel)
        close(pair[1]); /* so that the run's end of it is its only one */
    run_pidfd = above_two(syscall(SYS_pidfd_open, run, 0));
    for (char **variable = environment; *variable; variable++) /* it may hold secrets, and the run has it now */
        memset(*variable, 0, strlen(*variable));
    close_inherited();
}

/* The run's one message: which mode it is in, with the listener, the stacks and perhaps the status. */
static void receive(void)
{
    union {
        struct cmsghdr header;
        char space[CMSG_SPACE(3 * sizeof(int))];
    } control;
    struct iovec part = {mode, sizeof mode - 1};
    struct msghdr message = {
        .msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    int *slots[] = {&listener, &stacks, &status};
    ssize_t size = recvmsg(channel, &message, 0);
    struct cmsghdr *header = size > 0 ? CMSG_FIRSTHDR(&message) : 0;

    if (header && header->cmsg_type == SCM_RIGHTS && header->cmsg_len <= CMSG_LEN(3 * sizeof(int)))
        for (size_t i = 0; i < (header->cmsg_len - CMSG_LEN(0)) / sizeof(int); i++)
            memcpy(slots[i], CMSG_DATA(header) + i * sizeof(int), sizeof(int));
    close(channel);
    channel = -1;
}

/* Without a supervisor the kernel answers ENOSYS, which on_denied: kill does not mean: we end, and so does the run. */
static void end_unless_allowed(void)
{
    siginfo_t how = {0};

    if (strcmp(mode, "kill") || (waitid(P_PID, run, &how, WEXITED | WNOHANG | WNOWAIT) == 0 && how.si_pid == run))
        return;
    dprintf(2, "sandbox: error: the run is ended: a call was denied, and no supervisor is there to say which\n");
    kill(run, SIGKILL);
    _exit(128 + SIGKILL);
}

static void start_supervisor(char **argv)
{
    char numbers[4][16], *none[] = {0};
    int descriptors[] = {listener, stacks, run_pidfd, status};
    char *words[] = {argv[1], argv[2],    argv[3],    argv[4],    SUPERVISOR, mode,
                     numbers[0], numbers[1], numbers[2], numbers[3], 0};

    for (int i = 0; i < 4; i++)
        snprintf(numbers[i], sizeof numbers[i], "%d", descriptors[i]);
    fcntl(run_pidfd, F_SETFD, 0);
    supervisor = start(words, none, &all_signals);
    if (supervisor < 0) { /* then the listener goes, and the kernel answers for itself */
        dprintf(2, "sandbox: error: init: no supervisor could be started: %m: denied calls get ENOSYS\n");
        end_unless_allowed();
    }
    if (strcmp(mode, "kill")) /* else it stays open, so that nobody is answered should the supervisor end */
        close(listener);
    close(stacks);
    close(status);
    listener = -1;
}

/* What has ended is reaped, orphans too; if it is the run, so do we, with its exit code. */
static void reap(void)
{
    int how;
    pid_t ended;

    while ((ended = waitpid(-1, &how, WNOHANG)) > 0) {
        if (ended == supervisor) {
            supervisor = 0;
            end_unless_allowed();
        }
        if (ended != run)
            continue;
        if (WIFSIGNALED(how) && WTERMSIG(how) == SIGSYS)
            dprintf(2, "sandbox: error: the run was ended by SIGSYS, for a system call that the policy kills for\n"
                       "sandbox: hint: ptrace, bpf, another ABI ...: `sandbox-build policy show` has the list\n");
        close(status);
        close(listener);
        if (supervisor > 0) {
            struct pollfd end = {syscall(SYS_pidfd_open, supervisor, 0), POLLIN, 0};
            poll(&end, 1, LAST_WORDS_MS);
            kill(supervisor, SIGKILL);
        }
        _exit(WIFEXITED(how) ? WEXITSTATUS(how) : 128 + WTERMSIG(how));
    }
}

int main(int argc, char **argv, char **environment)
{
    signal(SIGCHLD, SIG_DFL); /* ignored, as some parents leave it, the run would have no exit code */
    sigfillset(&all_signals);
    sigprocmask(SIG_BLOCK, &all_signals, &old_signals);
    signals = above_two(signalfd(-1, &all_signals, 0));
    if (signals < 0)
        fail("signalfd");
    fcntl(signals, F_SETFD, FD_CLOEXEC);
    start_run(argc, argv, environment);
    for (;;) {
        struct pollfd sources[] = {{signals, POLLIN, 0}, {channel, POLLIN, 0}, {listener, POLLIN, 0}};
        struct signalfd_siginfo got;

        if (poll(sources, 3, -1) < 0)
            continue;
        if (sources[1].revents)
            receive();
        else if (sources[2].revents & POLLIN)
            start_supervisor(argv);
        else if (sources[2].revents) {
            close(listener); /* nobody is left under the filter */
            listener = -1;
        }
        if (!sources[0].revents || read(signals, &got, sizeof got) != sizeof got)
            continue;
        if (got.ssi_signo == SIGCHLD)
            reap();
        else if (got.ssi_code != SI_KERNEL) /* a terminal has sent it to the run too */
            kill(run, got.ssi_signo);
    }
}

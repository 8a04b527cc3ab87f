/* The one thing that CPython's standard library cannot do: a raw system call.
 *
 * Everything that is decided is decided in Python (jail.py, seccomp.py, landlock.py); this file only carries
 * numbers to the kernel and back, overwrites the environment's strings, and wraps one signal handler. `ctypes` would do the same for 4 ms
 * of every cold start.
 *
 * No headers but the kernel's own numbers, so that one cross-compiler builds the same bytes for both
 * architectures anywhere. The declarations below are CPython's Stable ABI
 * (docs.python.org/3/c-api/stable.html), whose layout is promised for every CPython 3.2 and later, so that
 * one file serves every interpreter.
 */
#include <asm/unistd.h>

typedef long Py_ssize_t;
typedef struct _object PyObject;
typedef PyObject *(*PyCFunction)(PyObject *, PyObject *);
typedef struct {
    const char *name;
    PyCFunction function;
    int flags;
    const char *doc;
} PyMethodDef;
typedef struct {
    Py_ssize_t reference_count;
    void *type;
    PyObject *(*init)(void);
    Py_ssize_t index;
    PyObject *copy;
    const char *name;
    const char *doc;
    Py_ssize_t size;
    PyMethodDef *methods;
    void *slots, *traverse, *clear, *free;
} PyModuleDef;

#define METH_VARARGS 1
#define METH_O 8
#define METH_NOARGS 4
#define PYTHON_ABI_VERSION 3

extern PyObject *PyModule_Create2(PyModuleDef *, int);
extern int PyModule_AddIntConstant(PyObject *, const char *, long);
extern Py_ssize_t PyTuple_Size(PyObject *);
extern PyObject *PyTuple_GetItem(PyObject *, Py_ssize_t);
extern PyObject *PyLong_FromLong(long);
extern unsigned long PyLong_AsUnsignedLongMask(PyObject *);
extern PyObject *PyErr_Occurred(void);
extern char *PyByteArray_AsString(PyObject *);
extern char *PyBytes_AsString(PyObject *);
extern Py_ssize_t PyBytes_Size(PyObject *);
extern int PyObject_IsInstance(PyObject *, PyObject *);
extern PyObject PyByteArray_Type;
extern void PyErr_SetString(PyObject *, const char *);
extern PyObject *PyExc_TypeError;

extern char **environ;

#define MAX_ARGUMENTS 6

static long raw(long number, const unsigned long a[MAX_ARGUMENTS])
{
#if defined(__x86_64__)
    long result;
    register long r10 __asm__("r10") = a[3];
    register long r8 __asm__("r8") = a[4];
    register long r9 __asm__("r9") = a[5];
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(number), "D"(a[0]), "S"(a[1]), "d"(a[2]), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return result;
#elif defined(__aarch64__)
    register long x8 __asm__("x8") = number;
    register long x0 __asm__("x0") = a[0];
    register long x1 __asm__("x1") = a[1];
    register long x2 __asm__("x2") = a[2];
    register long x3 __asm__("x3") = a[3];
    register long x4 __asm__("x4") = a[4];
    register long x5 __asm__("x5") = a[5];
    __asm__ volatile("svc 0"
                     : "+r"(x0)
                     : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5)
                     : "memory", "cc");
    return x0;
#else
#error "no system-call convention for this architecture"
#endif
}

static PyObject *call(PyObject *module, PyObject *arguments)
{
    unsigned long a[1 + MAX_ARGUMENTS] = {0};
    Py_ssize_t count = PyTuple_Size(arguments);

    (void)module;
    if (count < 1 || count > 1 + MAX_ARGUMENTS) {
        PyErr_SetString(PyExc_TypeError, "call(number, up to six arguments)");
        return 0;
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *item = PyTuple_GetItem(arguments, i);
        int is_buffer = PyObject_IsInstance(item, &PyByteArray_Type);
        if (is_buffer < 0)
            return 0;
        a[i] = is_buffer ? (unsigned long)PyByteArray_AsString(item) : PyLong_AsUnsignedLongMask(item);
        if (PyErr_Occurred())
            return 0;
    }
    return PyLong_FromLong(raw((long)a[0], a + 1));
}

static PyObject *address(PyObject *module, PyObject *buffer)
{
    (void)module;
    if (PyObject_IsInstance(buffer, &PyByteArray_Type) != 1) {
        PyErr_SetString(PyExc_TypeError, "address(bytearray)");
        return 0;
    }
    return PyLong_FromLong((long)PyByteArray_AsString(buffer));
}

static PyObject *wipe_environment(PyObject *module, PyObject *nothing)
{
    long count = 0;

    (void)module, (void)nothing;
    for (; environ && environ[count]; count++)
        for (volatile char *c = environ[count]; *c; c++)
            *c = 0;
    if (environ)
        environ[0] = 0;
    return PyLong_FromLong(count);
}

static PyObject *wipe(PyObject *module, PyObject *bytes)
{
    volatile char *text = PyBytes_AsString(bytes);
    Py_ssize_t size = text ? PyBytes_Size(bytes) : -1;

    (void)module;
    if (size < 0)
        return 0;
    for (Py_ssize_t i = 0; size > 1 && i < size; i++) /* one of a single byte is shared by all who use it */
        text[i] = 0;
    return PyLong_FromLong(size);
}

/* CPython's faulthandler leaves errno as its own last write(2) has left it, and the code may be just about to
 * read it: fork(3), for one, unblocks signals between its system call and its return. */
typedef void (*Handler)(int);
extern int sigaction(int, const void *, void *);
extern int *__errno_location(void);

static Handler kept_handler;

static void handle_and_keep_errno(int signal)
{
    int kept = *__errno_location();

    kept_handler(signal);
    *__errno_location() = kept;
}

static PyObject *keep_errno(PyObject *module, PyObject *signal)
{
    /* struct sigaction, whatever else is in it, begins with the handler: glibc and musl, amd64 and arm64. */
    union {
        Handler handler;
        char all[512];
    } action = {0};
    int number = (int)PyLong_AsUnsignedLongMask(signal);

    (void)module;
    if (sigaction(number, 0, &action) == 0 && action.handler != handle_and_keep_errno) {
        kept_handler = action.handler;
        action.handler = handle_and_keep_errno;
        sigaction(number, &action, 0);
    }
    return PyLong_FromLong(number);
}

static PyMethodDef methods[] = {
    {"call", call, METH_VARARGS,
     "call(number, *arguments) -> the kernel's own answer: negative is -errno.\n\n"
     "An argument is an int, or a bytearray, of which the kernel gets the address."},
    {"address", address, METH_O,
     "address(bytearray) -> where its bytes are, for structures that hold pointers.\n\n"
     "Valid while the bytearray lives and keeps its size."},
    {"wipe", wipe, METH_O,
     "wipe(bytes) -> overwrites it in place: nobody may use it any more. Returns its size."},
    {"keep_errno", keep_errno, METH_O,
     "keep_errno(signal) -> the handler that is installed for it leaves errno alone from now on."},
    {"wipe_environment", wipe_environment, METH_NOARGS,
     "Overwrites the environment's strings in memory and empties it; returns how many there were."},
    {0, 0, 0, 0},
};

static PyModuleDef definition = {
    .reference_count = 1,
    .name = "_syscall",
    .doc = "Raw system calls of the architecture that this was compiled for.",
    .size = -1,
    .methods = methods,
};

#define NUMBERS(X)                                                                                          \
    X(capget) X(capset) X(close_range) X(ioctl) X(landlock_add_rule)                               \
    X(landlock_create_ruleset) X(landlock_restrict_self) X(ppoll) X(prctl) X(prlimit64) X(seccomp) X(sendmsg)          \
    X(tkill) X(unshare)

__attribute__((visibility("default"))) PyObject *PyInit__syscall(void)
{
    PyObject *module = PyModule_Create2(&definition, PYTHON_ABI_VERSION);
#define ADD(name)                                                                                            \
    if (module && PyModule_AddIntConstant(module, "SYS_" #name, __NR_##name) < 0)                            \
        return 0;
    NUMBERS(ADD)
    return module;
}

/* An NVTX tool that writes a line per event to the file that NVTX_LOG names:

       EVENT  CLOCK_MONOTONIC_NS  PID  TID  DOMAIN  NAME  PAYLOAD      (separated by tabs)

   EVENT is attach, push or pop; a pop has no name.  It takes named domains alone.  A line is one
   write to a file opened for appending, so that those of processes and threads do not mix.  Only
   what old C libraries have too is used, as some engines live with one. */

#define _GNU_SOURCE
#define NVTX_NO_IMPL
#include <nvtx3/nvToolsExt.h>

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static int out = -1;

static void tell(
    const char *event, nvtxDomainHandle_t domain, const char *name, long long payload) {
    struct timespec now;
    char line[1024];
    clock_gettime(CLOCK_MONOTONIC, &now);
    int length = snprintf(
        line, sizeof line, "%s\t%lld\t%d\t%ld\t%s\t%.500s\t%lld\n", event,
        now.tv_sec * 1000000000LL + now.tv_nsec, getpid(), syscall(SYS_gettid),
        domain ? (const char *)domain : "", name, payload);
    if (write(out, line, length) != length)
        abort();
}

static const char *text(const nvtxEventAttributes_t *event) {
    if (event->messageType == NVTX_MESSAGE_TYPE_REGISTERED)
        return (const char *)event->message.registered;
    return event->messageType == NVTX_MESSAGE_TYPE_ASCII ? event->message.ascii : "";
}

static long long number(const nvtxEventAttributes_t *event) {
    return event->payloadType == NVTX_PAYLOAD_TYPE_INT64 ? event->payload.llValue : 0;
}

/* Handles are copies of the names. */
static nvtxDomainHandle_t create_domain(const char *name) {
    return (nvtxDomainHandle_t)strdup(name);
}

static nvtxStringHandle_t register_string(nvtxDomainHandle_t domain, const char *string) {
    (void)domain;
    return (nvtxStringHandle_t)strdup(string);
}

static int push(nvtxDomainHandle_t domain, const nvtxEventAttributes_t *event) {
    tell("push", domain, text(event), number(event));
    return 0;
}

static int pop(nvtxDomainHandle_t domain) {
    tell("pop", domain, "", 0);
    return 0;
}

static int take(const NvtxExportTableCallbacks *callbacks, unsigned id, void (*function)(void)) {
    NvtxFunctionTable table;
    unsigned size;
    if (!callbacks->GetModuleFunctionTable(NVTX_CB_MODULE_CORE2, &table, &size) || id >= size)
        return 0;
    *table[id] = function;
    return 1;
}

/* What NVTX calls when it has loaded a tool; 0 is a refusal. */
__attribute__((visibility("default")))
int InitializeInjectionNvtx2(NvtxGetExportTableFunc_t export_table) {
    const NvtxExportTableCallbacks *callbacks = export_table(NVTX_ETID_CALLBACKS);
    const char *path = getenv("NVTX_LOG");
    if (!callbacks || !path)
        return 0;
    out = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    if (out < 0)
        return 0;
#define TAKE(id, function) take(callbacks, NVTX_CBID_CORE2_##id, (void (*)(void))function)
    int taken = TAKE(DomainCreateA, create_domain) &&
                TAKE(DomainRegisterStringA, register_string) &&
                TAKE(DomainRangePushEx, push) && TAKE(DomainRangePop, pop);
    if (taken)
        tell("attach", NULL, "", 0);
    return taken;
}

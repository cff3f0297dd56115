// How an interposed function is written: HOOK(int, close, int fd) { ... } defines the libc name `close` for
// the whole program. In tests that link the library's objects the same functions are called smbdirect_close
// and so on, so that a sanitizer keeps its own interposers.
#pragma once

#ifdef SMBDIRECT_LINKED
#define SMBDIRECT_HOOK_NAME(name) "smbdirect_" #name
#else
#define SMBDIRECT_HOOK_NAME(name) #name
#endif

// The declaration gives the C++ function another name than libc's headers use, and the symbol its libc name.
#define HOOK(result, name, ...)                                         \
    extern "C" __attribute__((visibility("default")))                   \
    result hook_##name(__VA_ARGS__) __asm__(SMBDIRECT_HOOK_NAME(name)); \
    extern "C" result hook_##name(__VA_ARGS__)

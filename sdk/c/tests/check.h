/* check.h: tests as functions; the first CHECK that fails ends the program and says where. */
#ifndef CHECK_H
#define CHECK_H

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(condition)                                                                          \
    do {                                                                                          \
        if (!(condition)) {                                                                       \
            fprintf(stderr, "%s:%d: %s: not so: %s (%s)\n", __FILE__, __LINE__, __func__, #condition, strerror(errno)); \
            exit(1);                                                                              \
        }                                                                                         \
    } while (0)

#define RUN(test)                  \
    do {                           \
        fprintf(stderr, "%s\n", #test); \
        test();                    \
    } while (0)

#endif

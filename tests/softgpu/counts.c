// Writes the counters of executed lines that GCC added to the kernels, as files that gcov reads.
#include <errno.h>
#include <gcov.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// The linker makes both symbols from the section's name, unless no kernels are linked.
extern const struct gcov_info* const __start_softgpu_counts[]
    __attribute__((weak, visibility("hidden")));
extern const struct gcov_info* const __stop_softgpu_counts[]
    __attribute__((weak, visibility("hidden")));

struct target {
    const char* folder;
    FILE* file;
    int error;
};

// `name` is the path that the compiler chose.
static void open_file(const char* name, void* of) {
    struct target* target = of;
    char path[PATH_MAX];
    const char* slash = strrchr(name, '/');
    snprintf(path, sizeof path, "%s/%s", target->folder, slash ? slash + 1 : name);
    target->file = fopen(path, "wb");
    if (target->file == NULL) {
        target->error = errno;
    }
}

static void write_bytes(const void* bytes, unsigned length, void* of) {
    struct target* target = of;
    if (target->file != NULL && fwrite(bytes, 1, length, target->file) != length) {
        target->error = errno;
    }
}

static void* allocate(unsigned length, void* of) {
    (void)of;
    return malloc(length);
}

// Returns 0, or the number of an error.
int softgpu_write_counts(const char* folder) {
    struct target target = {folder, NULL, 0};
    for (const struct gcov_info* const* info = __start_softgpu_counts;
         info != __stop_softgpu_counts; info++) {
        __gcov_info_to_gcda(*info, open_file, write_bytes, allocate, &target);
        if (target.file != NULL && fclose(target.file) != 0) {
            target.error = errno;
        }
        target.file = NULL;
    }
    return target.error;
}

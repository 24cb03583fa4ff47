// Runs the tests whose names contain the first argument, or all.
#include "test/test.h"

#include <cstring>

int main(int count, char** arguments) {
  const char* const wanted = count > 1 ? arguments[1] : "";
  int run = 0;
  for (seqmix::test::Test* t = seqmix::test::Test::first(); t; t = t->next) {
    if (!std::strstr(t->name, wanted)) continue;
    const int before = seqmix::test::failures();
    t->body();
    run++;
    std::printf("%s %s\n", seqmix::test::failures() == before ? "ok    " : "FAILED", t->name);
  }
  std::printf("%d tests, %d failures\n", run, seqmix::test::failures());
  return run == 0 || seqmix::test::failures() ? 1 : 0;
}

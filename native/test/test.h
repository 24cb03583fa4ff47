// A test is a function that says what it expects; main.cpp runs them all. No framework: this page is all there is.
#pragma once
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>

namespace seqmix::test {

struct Test {
  const char* name;
  void (*body)();
  Test* next;
  static Test*& first() {
    static Test* f = nullptr;
    return f;
  }
  Test(const char* n, void (*b)()) : name(n), body(b), next(first()) { first() = this; }
};

inline int& failures() {
  static int f = 0;
  return f;
}

inline void expect(bool ok, const char* file, int line, const std::string& what) {
  if (ok) return;
  failures()++;
  std::printf("%s:%d: %s\n", file, line, what.c_str());
}

}  // namespace seqmix::test

#define TEST(name)                                             \
  static void name();                                          \
  static const ::seqmix::test::Test name##_test_(#name, name); \
  static void name()
#define EXPECT(condition, what) ::seqmix::test::expect((condition), __FILE__, __LINE__, what)

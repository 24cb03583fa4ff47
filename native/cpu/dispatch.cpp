#include "cpu/dispatch.h"

#include <cstdlib>

namespace seqmix::cpu {

namespace {

bool runs_always() { return true; }

#if defined(__x86_64__)
// The compiler's run-time checks ask cpuid, and xgetbv whether the system saves the registers.
bool runs_avx2() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
}
bool runs_avx512() {
  return runs_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
#endif

struct Choice {
  const Target& (*target)();
  bool (*runs)();
};

// Best first.
const Choice choices[] = {
#if defined(__x86_64__)
    {avx512_target, runs_avx512},
    {avx2_target, runs_avx2},
#endif
    {scalar_target, runs_always},
};

struct Chosen {
  const Target* target = nullptr;
  std::string refusal;

  Chosen() {
#if defined(__x86_64__)
    __builtin_cpu_init();
#endif
    const char* const wanted = std::getenv("SEQMIX_CPU_TARGET");
    std::string offered;
    for (const Choice& c : choices) {
      if (!c.runs()) continue;
      if (!target) target = &c.target();
      if (wanted && *wanted && std::string(c.target().name) == wanted) {
        target = &c.target();
        return;
      }
      offered += (offered.empty() ? "" : ", ") + std::string(c.target().name);
    }
    if (wanted && *wanted)
      refusal = "SEQMIX_CPU_TARGET: expected one that this processor runs (" + offered + "), got " + wanted;
  }
};

const Chosen& chosen() {
  static const Chosen* const c = new Chosen;
  return *c;
}

}  // namespace

const Target& target() { return *chosen().target; }
const std::string& target_refusal() { return chosen().refusal; }

}  // namespace seqmix::cpu

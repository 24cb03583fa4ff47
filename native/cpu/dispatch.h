// Chooses this process's instruction set, once: the best that processor and system offer, or SEQMIX_CPU_TARGET's.
#pragma once
#include <string>

#include "cpu/context.h"

namespace seqmix::cpu {

const Target& target();

// What was asked for by SEQMIX_CPU_TARGET and cannot be had, in the grammar of core/check.h; empty when all is well.
const std::string& target_refusal();

}  // namespace seqmix::cpu

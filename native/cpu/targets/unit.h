// What a target's unit needs before its namespace opens: the problems, and how functions are declared so that nothing
// is emitted which the linker could share between instruction sets.
#pragma once
#include <cstddef>
#include <cstdint>
#include <utility>

#include "core/problem/causal_conv1d.h"
#include "core/problem/elementwise.h"
#include "core/problem/flash_attention.h"
#include "core/problem/increment.h"
#include "core/problem/rotary.h"
#include "core/problem/rows.h"
#include "core/problem/selective_scan.h"
#include "core/problem/selective_state_update.h"
#include "core/problem/ssd_chunk_scan.h"
#include "core/sample_math.h"

#define SEQMIX_VERB inline __attribute__((always_inline))

// Every kernel, and the table of them in Op's order. Included inside a target's namespace, after its simd header.
// clang-format off
#include "cpu/simd/math.h"
#include "cpu/kernels/common.h"
#include "cpu/kernels/elementwise.h"
#include "cpu/kernels/increment.h"
#include "cpu/kernels/rotary.h"
#include "cpu/kernels/convert.h"
#include "cpu/kernels/copy.h"
#include "cpu/kernels/rows.h"
#include "cpu/kernels/select.h"
#include "cpu/kernels/sample.h"
#include "cpu/kernels/gemm.h"
#include "cpu/kernels/linear.h"
#include "cpu/kernels/tile.h"
#include "cpu/kernels/causal_conv1d.h"
#include "cpu/kernels/causal_conv1d_update.h"
#include "cpu/kernels/scan_states.h"
#include "cpu/kernels/selective_scan.h"
#include "cpu/kernels/selective_state_update.h"
#include "cpu/kernels/ssd.h"
#include "cpu/kernels/ssd_recurrent.h"
#include "cpu/kernels/ssd_tiles.h"
#include "cpu/kernels/ssd_chunked.h"
#include "cpu/kernels/ssd_quadratic.h"
#include "cpu/kernels/ssd_table.h"
#include "cpu/kernels/ssd_chunk_scan.h"
#include "cpu/kernels/attention_keys.h"
#include "cpu/kernels/attention_append.h"
#include "cpu/kernels/attention_pack.h"
#include "cpu/kernels/attention_tiles.h"
#include "cpu/kernels/attention_few.h"
#include "cpu/kernels/flash_attention.h"
#include "cpu/kernels/ceilings.h"
// clang-format on

static const Target target = {
    SEQMIX_TARGET,
    {
        copy_kernel,
        fill_kernel,
        silu_kernel,
        add_kernel,
        mul_kernel,
        softmax_kernel,
        argmax_kernel,
        topk_kernel,
        sample_kernel,
        embedding_kernel,
        linear_kernel,
        rms_norm_kernel,
        causal_conv1d_kernel,
        causal_conv1d_update_kernel,
        selective_scan_kernel,
        selective_state_update_kernel,
        ssd_chunk_scan_kernel,
        increment_kernel,
        flash_attention_kernel,
        flash_attention_kernel,
        flash_attention_kernel,
        gelu_kernel,
        rotary_kernel,
        softcap_kernel,
    },
    fma_loop,
    read_loop,
};

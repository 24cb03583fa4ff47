import { describe, expect, test } from 'vitest'
import type { NDArray } from '../reference/array.js'
import { attention } from '../reference/attention.js'
import { causalConv1d } from '../reference/causal_conv1d.js'
import { selectiveScan } from '../reference/selective_scan.js'
import { ssdChunked, ssdQuadratic, ssdRecurrent, type SsdInputs } from '../reference/ssd_chunk_scan.js'
import { expectClose } from '../support/close.js'
import { expectLse } from '../support/attention.js'
import { loadGolden } from '../support/golden.js'

// The golden results were computed in float64 and stored as float32: half a unit in the last place, 6e-8, is the only loss.
const stored = { on: 'cpu', bound: 6e-8 } as const

describe('the references against golden data', () => {
  test.each(loadGolden('selective_scan'))('selective scan: $name', ({ inputs, outputs, options }) => {
    const { u, delta, A, B, C, D, z } = inputs as Record<'u' | 'delta' | 'A' | 'B' | 'C' | 'D' | 'z', never>
    const { out, lastState } = selectiveScan({
      ...{ u, delta, A, B, C, D, z },
      deltaBias: inputs['delta_bias'],
      deltaSoftplus: options['delta_softplus'] as boolean,
      initialState: inputs['initial_state'],
      seqIdx: inputs['seq_idx'],
    })
    expectClose(out, outputs['out']!, stored)
    expectClose(lastState, outputs['last_state']!, stored)
  })

  test.each(loadGolden('ssd'))('ssd, in its three forms: $name', ({ inputs, outputs, options }) => {
    const x: SsdInputs = {
      ...(inputs as unknown as SsdInputs),
      dtBias: inputs['dt_bias'],
      dtSoftplus: options['dt_softplus'] as boolean,
      dtLimit: options['dt_limit'] as [number, number] | null,
      initialStates: inputs['initial_states'],
      seqIdx: inputs['seq_idx'],
    }
    for (const { out, finalStates } of [ssdRecurrent(x), ssdQuadratic(x), ssdChunked(x, 16), ssdChunked(x, 57)]) {
      expectClose(out, outputs['out']!, stored)
      expectClose(finalStates, outputs['final_states']!, stored)
    }
  })

  test.each(loadGolden('causal_conv1d'))('causal conv1d: $name', ({ inputs, outputs, options }) => {
    const { out, finalStates } = causalConv1d({
      x: inputs['x']!,
      weight: inputs['weight']!,
      bias: inputs['bias'],
      activation: options['activation'] as null | 'silu',
      initialStates: inputs['initial_states'],
      seqIdx: inputs['seq_idx'],
    })
    expectClose(out, outputs['out']!, stored)
    expect(finalStates.data).toEqual(outputs['final_states']!.data)
  })

  test.each(loadGolden('attention'))('attention: $name', ({ inputs, outputs, options }) => {
    const { q, k, v } = inputs as Record<'q' | 'k' | 'v', NDArray>
    // Each row by itself, with its own number of keys.
    for (let r = 0; r < q.shape[0]!; r++) {
      const keys = inputs['kv_lens']?.at(r) ?? k.shape[1]!
      const row = (x: NDArray) => x.slice(0, r, 1)
      const { out, lse } = attention({
        ...{ q: row(q), k: row(k).slice(1, 0, keys), v: row(v).slice(1, 0, keys) },
        causal: options['causal'] as boolean,
        window: options['window'] as [number, number],
        softcap: options['softcap'] as number,
        scale: options['scale'] as number,
        alibiSlopes: inputs['alibi_slopes'],
        sinks: inputs['sinks'],
      })
      expectClose(out, row(outputs['out']!), stored)
      expectLse(lse, row(outputs['lse']!), stored)
    }
  })
})

import { afterAll, expect, test } from 'vitest'
import * as seqmix from '../../lib/index.js'
import { setThreads, type Tensor } from '../../lib/index.js'
import { NDArray } from '../reference/array.js'
import type { ScoreOptions } from '../reference/attention.js'
import { describeOp, put } from '../support/device.js'
import { floatTypes, rounded, roundedTo, type FloatType } from '../support/floats.js'
import { Random } from '../support/random.js'
import { attentionInputs, heldIn, runAttention, type AttentionSizes } from '../support/attention.js'
import { runConv } from '../support/conv.js'
import { run, scanInputs, scanTypes } from '../support/scan.js'
import { runSsd, seenBy, ssdInputs, type SsdHow } from '../support/ssd.js'

const random = new Random('determinism')
const halves: SsdHow = { mode: 'chunked', types: { x: 'bfloat16', z: 'bfloat16', B: 'bfloat16', C: 'bfloat16' } }

/** What activations, weights and states of the ops are held in. */
let dtype: FloatType = 'float32'

/** Each op on inputs large enough that several threads share the work, some cut over time and some over channels. */
const ops: Record<string, () => Tensor[]> = {
  'selectiveScan, long and narrow': scan({ b: 1, d: 3, L: 3000, n: 16 }, 'plain'),
  'selectiveScan, long and narrow, transposed': scan({ b: 1, d: 3, L: 3000, n: 16 }, 'swapped'),
  'selectiveScan, wide': scan({ b: 2, d: 200, L: 150, n: 16 }, 'plain'),
  'selectiveScan, wide, transposed': scan({ b: 2, d: 200, L: 150, n: 16 }, 'swapped'),
  'selectiveScan, large state': scan({ b: 1, d: 20, L: 65, n: 300 }, 'fused'),
  'ssdChunkScan, fewer heads than threads': ssd({ b: 1, L: 700, h: 1, p: 40, n: 20 }, { mode: 'chunked' }),
  'ssdChunkScan, 7 heads of a group': ssd({ b: 1, L: 300, h: 7, p: 20, n: 16 }, { mode: 'chunked' }),
  'ssdChunkScan, heads in groups, in 16 bits': ssd({ b: 2, L: 200, h: 6, p: 20, n: 16, groups: 3 }, halves),
  'ssdChunkScan, token by token': ssd({ b: 1, L: 200, h: 3, p: 70, n: 20 }, { mode: 'recurrent' }),
  'ssdChunkScan, quadratic': ssd({ b: 1, L: 600, h: 5, p: 20, n: 16 }, { mode: 'quadratic' }),
  'ssdChunkScan, as it chooses': ssd({ b: 1, L: 400, h: 3, p: 64, n: 64 }, {}),
  'flashAttention, one head': attention({ b: 1, sq: 500, sk: 700, hq: 1, hk: 1, d: 32 }, { causal: true }),
  'flashAttention, groups and a window': attention({ b: 2, sq: 90, sk: 300, hq: 6, hk: 2, d: 40 }, { window: [50, 7] }),
  'flashAttention, few queries over many keys': attention({ b: 1, sq: 20, sk: 6000, hq: 2, hk: 1, d: 16 }, {}),
  'flashAttention, one query over many keys': attention({ b: 2, sq: 1, sk: 4000, hq: 8, hk: 2, d: 64 }, {}),
  'flashAttention, one query over more keys, many heads': attention(
    { b: 1, sq: 1, sk: 2500, hq: 12, hk: 12, d: 64 },
    {},
  ),
  selectiveStateUpdate: () => {
    const [b, d, n] = [3, 500, 16]
    const state = fixed('state', [b, d, n])
    const out = seqmix.selectiveStateUpdate(
      state,
      fixed('x', [b, d]),
      fixed('dt', [b, d]),
      fixed('A', [d, n]),
      fixed('B', [b, n]),
      fixed('C', [b, n]),
      { dtSoftplus: true },
    )
    return [out, state]
  },
  causalConv1d: () => {
    const q = { x: numbers('x', [2, 100, 700]), weight: numbers('w', [100, 4]), activation: 'silu' } as const
    const types = { x: dtype, weight: dtype }
    const [a, b] = [runConv(q, {}, types), runConv(q, { x: 'swapped' }, types)]
    return [a.out, a.finalStates, b.out]
  },
  causalConv1dUpdate: () => {
    const state = fixed('state', [3, 700, 3])
    return [seqmix.causalConv1dUpdate(fixed('x', [3, 700]), state, fixed('w', [700, 4]), { activation: 'silu' }), state]
  },
  rmsNorm: () => [
    seqmix.rmsNorm(fixed('x', [300, 700]), fixed('w', [700])),
    seqmix.rmsNorm(fixed('long', [1, 60000]), null),
    seqmix.rmsNorm(fixed('x', [300, 700]), fixed('w', [700]), { z: fixed('z', [300, 700]), groupSize: 70 }),
  ],
  linear: () => [
    seqmix.linear(fixed('x', [1, 1000]), fixed('w', [500, 1000])),
    seqmix.linear(fixed('x2', [70, 300]), fixed('w2', [130, 300]), { bias: fixed('b', [130]), activation: 'silu' }),
    seqmix.linear(fixed('x3', [3, 20000]), fixed('w3', [2, 20000])),
  ],
  embedding: () => [
    seqmix.embedding(
      put(
        new NDArray([2000]).map((_, i) => (i * 7) % 50),
        'int32',
      ),
      fixed('table', [50, 100]),
    ),
  ],
  silu: () => [seqmix.silu(fixed('x', [100000]))],
  gelu: () => [seqmix.gelu(fixed('x', [100000])), seqmix.gelu(fixed('x', [100000]), { approximate: 'tanh' })],
  'mul with an activation': () => [seqmix.mul(fixed('a', [50000]), fixed('b', [50000]), { activation: 'silu' })],
  rotary: () => [seqmix.rotary(fixed('x4', [2, 300, 5, 64]), fixed('cos', [300, 32]), fixed('sin', [300, 32]))],
  add: () => [seqmix.add(fixed('x', [100, 1000]), fixed('y', [1000]))],
  mul: () => [seqmix.mul(fixed('x', [100, 1000]), fixed('y', [100, 1]))],
  softmax: () => [seqmix.softmax(fixed('x', [100, 1000])), seqmix.softmax(fixed('long', [1, 60000]))],
  argmax: () => [seqmix.argmax(fixed('x', [100, 1000])), seqmix.argmax(fixed('long', [1, 60000]))],
  topk: () => Object.values(seqmix.topk(fixed('x', [100, 1000]), 20)),
  sample: () => [
    seqmix.sample(fixed('x', [100, 1000]), { topK: 50, topP: 0.9, seed: 5 }),
    seqmix.sample(fixed('long', [1, 60000])),
  ],
}

function scan(sizes: Parameters<typeof scanInputs>[1], layout: 'plain' | 'swapped' | 'fused'): () => Tensor[] {
  const given = scanInputs(random, sizes)
  return () => {
    const types = scanTypes(given, dtype)
    const x = cached(given, () => roundedTo(given, types))
    return Object.values(run(x, { u: layout, delta: layout, z: layout }, types))
  }
}

function ssd(sizes: Parameters<typeof ssdInputs>[1], how: SsdHow): () => Tensor[] {
  const x = seenBy(ssdInputs(random, sizes), how.types)
  return () => Object.values(runSsd(x, how))
}

function attention(sizes: AttentionSizes, options: ScoreOptions): () => Tensor[] {
  const given = { ...attentionInputs(random, sizes), ...options }
  return () => {
    const x = cached(given, () => heldIn(given, dtype))
    return Object.values(runAttention(x, { dtype }))
  }
}

function numbers(name: string, shape: number[]): NDArray {
  return cached(name + shape.join(), () => rounded(new Random(name + shape.join()).normal(shape), dtype))
}

function fixed(name: string, shape: number[]): Tensor {
  return put(numbers(name, shape), dtype)
}

const made = new Map<unknown, unknown>()

/** What was made before under this key, for the same dtype. */
function cached<T>(key: unknown, make: () => T): T {
  if (!made.has(key)) made.set(key, make())
  return made.get(key) as T
}

async function bits(op: () => Tensor[]): Promise<string[]> {
  const results = await Promise.all(op().map((t) => t.data()))
  return results.map((d) => Buffer.from(d.buffer, d.byteOffset, d.byteLength).toString('base64'))
}

describeOp('the same bits from run to run and for any number of threads', () => {
  afterAll(() => setThreads(2))

  const cases = Object.keys(ops).flatMap((name) => floatTypes.map((type) => [name, type] as const))
  test.each(cases)('%s of %s', async (name, type) => {
    dtype = type
    made.clear()
    setThreads(1)
    const want = await bits(ops[name]!)
    for (const threads of [1, 2, 3, 8, 2]) {
      setThreads(threads)
      for (let again = 0; again < 2; again++)
        (await bits(ops[name]!)).forEach((got, i) => {
          if (got !== want[i]) expect.fail(`result ${i} differs with ${threads} threads`)
        })
    }
  })
})

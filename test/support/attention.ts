import { expect } from 'vitest'
import { flashAttention, type Tensor } from '../../lib/index.js'
import { attention, type AttentionInputs, type AttentionResult, type ScoreOptions } from '../reference/attention.js'
import { float32, NDArray } from '../reference/array.js'
import { expectClose, type Bounds } from './close.js'
import { dut, on, take, type Values } from './device.js'
import { rounded, type FloatType } from './floats.js'
import { place, type Layout } from './layout.js'
import { tensor } from '../../lib/index.js'
import type { Random } from './random.js'

export interface AttentionSizes {
  b: number
  sq: number
  sk: number
  hq: number
  hk: number
  d: number
  dv?: number
}

/** Random queries, keys and values; queries are so large that some weights are near 1 and others near 0. */
export function attentionInputs(random: Random, { b, sq, sk, hq, hk, d, dv = d }: AttentionSizes): AttentionInputs {
  return {
    q: random.normal([b, sq, hq, d], 2),
    k: random.normal([b, sk, hk, d]),
    v: random.normal([b, sk, hk, dv]),
  }
}

/** The small operands beside scores. */
export interface Extras {
  alibi?: 'heads' | 'rows' | false
  sinks?: boolean
}

export function withExtras(random: Random, x: AttentionInputs, { alibi, sinks }: Extras): AttentionInputs {
  const [b, , hq] = x.q.shape as [number, number, number]
  return {
    ...x,
    ...(alibi ? { alibiSlopes: random.uniform(alibi === 'rows' ? [b, hq] : [hq], 0.01, 0.5) } : {}),
    ...(sinks ? { sinks: random.normal([hq], 2) } : {}),
  }
}

export interface AttentionHow {
  dtype?: FloatType
  q?: Layout
  k?: Layout
  v?: Layout
}

/** The reference's options as the op takes them. */
export function scoreOptions(x: ScoreOptions) {
  const put = (a: NDArray | null | undefined) =>
    a ? tensor(Float32Array.from(a.data), { shape: [...a.shape], device: dut }) : null
  return {
    causal: x.causal ?? false,
    window: x.window ?? null,
    softcap: x.softcap ?? 0,
    scale: x.scale ?? null,
    alibiSlopes: put(x.alibiSlopes),
    sinks: put(x.sinks),
    returnLse: true as const,
  }
}

/** The inputs as a dtype holds them. */
export function heldIn<T extends AttentionInputs>(x: T, dtype: FloatType): T {
  return { ...x, q: rounded(x.q, dtype), k: rounded(x.k, dtype), v: rounded(x.v, dtype) }
}

export function runAttention(x: AttentionInputs, how: AttentionHow = {}): { out: Tensor; lse: Tensor } {
  const { dtype = 'float32', q = 'plain', k = 'plain', v = 'plain' } = how
  return flashAttention(place(x.q, q, dtype), place(x.k, k, dtype), place(x.v, v, dtype), scoreOptions(x))
}

/** −∞ where the reference has it, and else as near as `limits` say: lse is float32 beside any dtype. */
export function expectLse(lse: Values, ref: NDArray, limits: Bounds): void {
  expect(lse.shape).toEqual(ref.shape)
  const never = (data: ArrayLike<number>): boolean[] => Array.from(data, (v) => v === -Infinity)
  expect(never(lse.data)).toEqual(never(ref.data))
  const finite = (data: ArrayLike<number>): NDArray =>
    new NDArray(
      ref.shape,
      Array.from(data, (v) => (v === -Infinity ? 0 : v)),
    )
  expectClose(finite(lse.data), finite(ref.data), limits)
}

/** Both results near the reference's. */
export async function expectAttention(
  got: { out: Tensor; lse: Tensor },
  want: AttentionResult,
  x?: AttentionInputs,
): Promise<void> {
  let evaluated: AttentionResult | undefined
  const plain = x && ((): AttentionResult => (evaluated ??= attention(x, float32)))
  const dtype = got.out.dtype as FloatType
  expectClose(await take(got.out), want.out, { on, dtype, ...(plain ? { plain: () => plain().out } : {}) })
  expectLse(await take(got.lse), want.lse, { on, ...(plain ? { plain: () => lseOf(plain().lse) } : {}) })
}

const lseOf = (lse: NDArray): NDArray => lse.map((v) => (v === -Infinity ? 0 : v))

/** Runs the op and the reference on the same values, and compares both results. */
export async function checkAttention(given: AttentionInputs, how: AttentionHow = {}): Promise<void> {
  const x = heldIn(given, how.dtype ?? 'float32')
  await expectAttention(runAttention(x, how), attention(x), x)
}

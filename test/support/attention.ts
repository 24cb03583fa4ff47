import { expect } from 'vitest'
import { flashAttention, tensor, type Tensor } from '../../lib/index.js'
import { attention, type AttentionInputs, type AttentionResult, type ScoreOptions } from '../reference/attention.js'
import { float32, NDArray } from '../reference/array.js'
import { expectClose, type Bounds } from './close.js'
import { dut, on, take, type Values } from './device.js'
import { rounded, type FloatType } from './floats.js'
import { place, type Layout } from './layout.js'
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

/** Golden inputs; how many keys each row has, where they differ, is left out. */
export function goldenInputs(inputs: Record<string, NDArray>, options: Record<string, unknown>): AttentionInputs {
  return {
    ...(inputs as unknown as Pick<AttentionInputs, 'q' | 'k' | 'v'>),
    causal: options['causal'] as boolean,
    window: options['window'] as [number, number],
    softcap: options['softcap'] as number,
    scale: options['scale'] as number,
    alibiSlopes: inputs['alibi_slopes'],
    sinks: inputs['sinks'],
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
export function heldIn<T extends Pick<AttentionInputs, 'q' | 'k' | 'v'>>(x: T, dtype: FloatType): T {
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

/** Offsets, lengths or slots on the device. */
export function ints(values: ArrayLike<number> | null | undefined): Tensor | null {
  return values ? tensor(Int32Array.from(values), { device: dut }) : null
}

export interface Pages {
  k: NDArray // (pages, page, hk, d)
  v: NDArray
  blockTable: NDArray // (n, blocks)
}

/**
 * Each sequence's keys (length, hk, d) and values cut into pages, which lie in no order among others that are NaN; `room` more
 * keys fit each sequence. Entries of the table that no key is behind are not pages.
 */
export function paged(random: Random, page: number, k: readonly NDArray[], v: readonly NDArray[], room = 0): Pages {
  const needed = k.map((a) => Math.ceil((a.shape[0]! + room) / page))
  const count = needed.reduce((a, b) => a + b, 3)
  const free = Array.from({ length: count }, (_, i) => i)
  const blockTable = new NDArray([k.length, Math.max(1, ...needed) + 1]).map(() => -1)
  const [hk, d] = k[0]!.shape.slice(1) as [number, number]
  const pages = { k: new NDArray([count, page, hk, d]), v: new NDArray([count, page, hk, v[0]!.shape[2]!]), blockTable }
  pages.k.data.fill(NaN)
  pages.v.data.fill(NaN)
  needed.forEach((blocks, r) => {
    for (let b = 0; b < blocks; b++) {
      const at = free.splice(random.int(0, free.length - 1), 1)[0]!
      blockTable.set(at, r, b)
      for (const [from, to] of [
        [k[r]!, pages.k],
        [v[r]!, pages.v],
      ] as const) {
        const rows = from.slice(0, b * page, Math.max(0, Math.min(page, from.shape[0]! - b * page)))
        to.data.set(rows.data, to.offset(at))
      }
    }
  })
  return pages
}

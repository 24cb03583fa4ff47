import { concat, NDArray } from './array.js'
import {
  asRow,
  attention,
  type AttentionResult,
  rotate,
  type RotaryInputs,
  rowOf,
  type ScoreOptions,
} from './attention.js'

export interface PackedInputs extends ScoreOptions {
  q: NDArray // (total, hq, d)
  k: NDArray // (total, hk, d), or pages (pages, page, hk, d)
  v: NDArray
  cuSeqlensQ: ArrayLike<number> // (n + 1)
  cuSeqlensK?: ArrayLike<number> | null // (n + 1)
  seqUsedK?: ArrayLike<number> | null // (n)
  blockTable?: NDArray | null // (n, blocks)
}

/** The keys [0, n) of a sequence, from the pages that its row of the table names. */
function inPages(pages: NDArray, table: NDArray, row: number, n: number): NDArray {
  const size = pages.shape[1]!
  const rows = Array.from({ length: n }, (_, j) =>
    rowOf(pages.slice(0, table.at(row, Math.floor(j / size)), 1)).slice(0, j % size, 1),
  )
  return rows.length ? concat(rows, 0) : new NDArray([0, ...pages.shape.slice(2)])
}

/** One row of slopes (b, hq) or all of them (hq), and one of leftPad. */
function optionsOf<T extends ScoreOptions>(x: T, row: number): T {
  const slopes = x.alibiSlopes
  return {
    ...x,
    alibiSlopes: slopes && slopes.shape.length === 2 ? rowOf(slopes.slice(0, row, 1)) : slopes,
    leftPad: x.leftPad ? [x.leftPad[row]!] : null,
  }
}

/** Packed results: out (total, hq, dv) and lse (hq, total), 0 and −∞ where a row is in no sequence. */
function packed(
  total: number,
  hq: number,
  dv: number,
  parts: { at: number; result: AttentionResult }[],
): AttentionResult {
  const out = new NDArray([total, hq, dv])
  const lse = new NDArray([hq, total]).map(() => -Infinity)
  for (const { at, result } of parts) {
    out.data.set(result.out.data, at * hq * dv)
    const n = result.out.shape[1]!
    for (let h = 0; h < hq; h++) for (let i = 0; i < n; i++) lse.set(result.lse.at(0, h, i), h, at + i)
  }
  return { out, lse }
}

/** Sequences one after the other in one array, each with keys of its own. */
export function attentionVarlen(x: PackedInputs): AttentionResult {
  const [total, hq] = x.q.shape as [number, number, number]
  const parts = Array.from({ length: x.cuSeqlensQ.length - 1 }, (_, r) => {
    const at = x.cuSeqlensQ[r]!
    const q = x.q.slice(0, at, x.cuSeqlensQ[r + 1]! - at)
    const from = x.cuSeqlensK?.[r] ?? 0
    const n = x.seqUsedK?.[r] ?? x.cuSeqlensK![r + 1]! - from
    const keys = (a: NDArray): NDArray => (x.blockTable ? inPages(a, x.blockTable, r, n) : a.slice(0, from, n))
    return { at, result: attention({ ...optionsOf(x, r), q: asRow(q), k: asRow(keys(x.k)), v: asRow(keys(x.v)) }) }
  })
  return packed(total, hq, x.v.shape.at(-1)!, parts)
}

export interface CacheInputs extends ScoreOptions {
  q: NDArray // (b, sq, hq, d), or (total, hq, d) with cuSeqlensQ
  kCache: NDArray // (B, S, hk, d), or pages; changed in place
  vCache: NDArray
  k?: NDArray | null // (b, s, hk, d), or (total, hk, d)
  v?: NDArray | null
  cacheSeqlens?: ArrayLike<number> | null // (b)
  rotary?: RotaryInputs | null
  cacheBatchIdx?: ArrayLike<number> | null // (b), negative for an idle row
  blockTable?: NDArray | null
  cuSeqlensQ?: ArrayLike<number> | null
  keep?: (key: NDArray) => NDArray // what a cache makes of a key (d), as it stores it
}

interface Sequence {
  row: number
  slot: number
  used: number
  q: NDArray // (sq, hq, d)
  k: NDArray | null // (s, hk, d)
  v: NDArray | null
}

function sequencesOf(x: CacheInputs): Sequence[] {
  const n = x.cuSeqlensQ ? x.cuSeqlensQ.length - 1 : x.q.shape[0]!
  return Array.from({ length: n }, (_, row) => {
    const part = (a: NDArray | null | undefined): NDArray | null => {
      if (!a) return null
      if (!x.cuSeqlensQ) return rowOf(a.slice(0, row, 1))
      return a.slice(0, x.cuSeqlensQ[row]!, x.cuSeqlensQ[row + 1]! - x.cuSeqlensQ[row]!)
    }
    const room = x.blockTable ? x.blockTable.shape[1]! * x.kCache.shape[1]! : x.kCache.shape[1]!
    const slot = x.cacheBatchIdx?.[row] ?? row
    return { row, slot, used: x.cacheSeqlens?.[row] ?? room, q: part(x.q)!, k: part(x.k), v: part(x.v) }
  })
}

const placesCount = (x: CacheInputs): boolean => !!x.causal || (x.window ?? [-1, -1]).some((side) => side >= 0)

/** New keys and values, rotated and as the cache keeps them, in their places. */
export function append(x: CacheInputs): void {
  for (const { row, slot, used, k, v } of sequencesOf(x)) {
    if (!k || !v || slot < 0) continue
    const turned = x.rotary ? rotate(k, (t) => used + t, x.rotary) : k
    const size = x.kCache.shape[1]!
    for (const [from, cache] of [
      [turned, x.kCache],
      [v, x.vCache],
    ] as const) {
      const width = cache.strides[2]!
      for (let t = 0; t < k.shape[0]!; t++)
        for (let h = 0; h < k.shape[1]!; h++) {
          const j = used + t
          const kept = (x.keep ?? ((key) => key))(
            new NDArray([width], from.data.slice(from.offset(t, h), from.offset(t, h) + width)),
          )
          const [outer, inner] = x.blockTable ? [x.blockTable.at(row, Math.floor(j / size)), j % size] : [slot, j]
          cache.data.set(kept.data, cache.offset(outer, inner, h))
        }
    }
  }
}

/** Attention over what the cache holds by now, new keys included. */
export function attentionOverCache(x: CacheInputs): AttentionResult {
  const parts: { at: number; result: AttentionResult }[] = []
  const [hq, dv] = [x.q.shape.at(-2)!, x.vCache.shape[3]!]
  for (const { row, slot, used, q, k } of sequencesOf(x)) {
    const at = x.cuSeqlensQ ? x.cuSeqlensQ[row]! : row * x.q.shape[1]!
    if (slot < 0) continue
    const n = used + (k ? k.shape[0]! : 0)
    const keys = (a: NDArray): NDArray =>
      x.blockTable ? inPages(a, x.blockTable, row, n) : rowOf(a.slice(0, slot, 1)).slice(0, 0, n)
    const turned = x.rotary ? rotate(q, (i) => used + (placesCount(x) ? i : 0), x.rotary) : q
    const options = optionsOf(x, row)
    parts.push({
      at,
      result: attention({ ...options, q: asRow(turned), k: asRow(keys(x.kCache)), v: asRow(keys(x.vCache)) }),
    })
  }
  const total = x.cuSeqlensQ ? x.q.shape[0]! : x.q.shape[0]! * x.q.shape[1]!
  const all = packed(total, hq, dv, parts)
  if (x.cuSeqlensQ) return all
  const [b, sq] = x.q.shape as [number, number]
  return { out: all.out.reshape([b, sq, hq, dv]), lse: all.lse.reshape([hq, b, sq]).permute([1, 0, 2]) }
}

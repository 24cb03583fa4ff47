// Which kind of cache a layer gets, and how one comes back from what was saved.

import { damaged } from '../../checkpoint/format.js'
import type { StoredTensor } from '../../checkpoint/index.js'
import { isFloat } from '../../dtype.js'
import { rangeError, shown } from '../../errors.js'
import { device as findDevice, scope, tensor, type Device, type FloatDType, type Tensor } from '../../index.js'
import { whole } from '../../options.js'
import { readTensors } from '../cache.js'
import { ContiguousCache } from './contiguous.js'
import type { KVCache, KVShape } from './kv-cache.js'
import { PagedCache } from './paged.js'
import { PagePool } from './pages.js'
import { QuantisedCache } from './quantised.js'
import { ringPages, SlidingCache } from './sliding.js'
import { StreamingCache } from './streaming.js'

const KINDS = ['contiguous', 'paged', 'sliding', 'sinks', 'int8'] as const

/** What a layer's keys and values are kept in. */
export interface KVCacheOptions {
  /**
   * `contiguous`: one piece of memory, which doubles when it is full. `paged`: pages of a pool, which clones share. `sliding`: the
   * last `window` tokens, in memory that does not grow. `sinks`: the first tokens and a window of the last (StreamingLLM), in
   * memory that does not grow. `int8`: a byte an element. By default `sliding` for a layer that has a window of its own, else
   * `contiguous`; a layer with a window keeps it in every kind.
   */
  kind?: (typeof KINDS)[number]
  /** What keys and values are held in: the dtype of what the layer computes in by default; those of a model's scans float32. */
  dtype?: FloatDType
  /** contiguous and int8: tokens that there is memory for at first (64). */
  capacity?: number
  /** sliding and sinks: tokens that a token sees, itself (but no sinks) included. By default the layer's own window. */
  window?: number
  /** sinks: tokens at the beginning that stay (4). */
  sinks?: number
  /** paged: where pages come from. By default a pool of the cache's own, which grows, and which its clones share. */
  pool?: PagePool
}

/** The names that checkOptions knows. */
export const kvOptionNames = ['kind', 'dtype', 'capacity', 'window', 'sinks', 'pool'] as const

/** @internal a cache of the kind asked for; `window` and `layer` are the layer's own */
export function makeKVCache(
  shape: KVShape,
  options: KVCacheOptions,
  window: number | undefined,
  layer: object,
): KVCache {
  const { kind = window === undefined ? 'contiguous' : 'sliding' } = options
  checkKVOptions(options)
  const capacity = options.capacity ?? 64
  if (kind === 'contiguous') return new ContiguousCache(shape, capacity)
  if (kind === 'int8') return new QuantisedCache(shape, capacity)
  if (kind === 'paged') {
    if (options.pool) return new PagedCache(shape, options.pool.of(layer, shape), undefined)
    return new PagedCache(shape, new PagePool().of(layer, shape), { count: 0 })
  }
  const wanted = options.window ?? window
  if (wanted === undefined) throw rangeError('ERR_OPTION', 'window', `a number of tokens for kind '${kind}'`, 'none')
  // A layer that was made for a window has no use for what is before it.
  if (kind === 'sliding' || window !== undefined) return new SlidingCache(shape, Math.min(wanted, window ?? wanted))
  return new StreamingCache(shape, wanted, options.sinks ?? 4)
}

/** Throws ERR_OPTION for a value that makes no sense for any layer. */
export function checkKVOptions(options: KVCacheOptions): void {
  const { kind, pool } = options
  if (kind !== undefined && !KINDS.includes(kind))
    throw rangeError('ERR_OPTION', 'kind', `one of ${KINDS.join(', ')}`, shown(kind))
  for (const name of ['capacity', 'window', 'sinks'] as const) {
    const value = options[name]
    if (value !== undefined && (whole(value, name, 1) < 1 || value > 2 ** 31 - 1))
      throw rangeError('ERR_OPTION', name, 'a whole number from 1 to 2147483647', shown(value))
  }
  if (pool !== undefined && !(pool instanceof PagePool))
    throw rangeError('ERR_OPTION', 'pool', 'a PagePool', shown(pool))
}

type Stored = Readonly<Record<string, StoredTensor>>

/** @internal by the `kind` that a cache has */
export const kvKinds: Readonly<Record<string, (stored: Stored, device: Device) => KVCache>> = {
  kv: (stored, device) => rowsBack(stored, device, (shape, length) => new ContiguousCache(shape, length, length)),
  'kv-int8': (stored, device) => rowsBack(stored, device, (shape, length) => new QuantisedCache(shape, length, length)),
  'kv-paged': (stored, device) =>
    rowsBack(stored, device, (shape, length) => {
      return new PagedCache(shape, new PagePool().of({}, shape), { count: 0 }, undefined, length)
    }),
  'kv-sliding': ringBack,
  'kv-sinks': ringBack,
}

/**
 * A KV cache as its `save` left it.
 *
 * @param bytes what save() returned
 * @param device where the cache goes; by default the best device
 * @throws SeqmixError ERR_CHECKPOINT where the bytes are damaged or of something else
 */
export function restoreKVCache(bytes: Uint8Array, device?: Device | string): KVCache {
  const { tensors, note } = readTensors(bytes)
  const kind = note.kind ?? 'nothing'
  const restore = Object.hasOwn(kvKinds, kind) ? kvKinds[kind] : undefined
  if (!restore) throw damaged('cache', `expected one of ${Object.keys(kvKinds).join(', ')}, got ${kind}`)
  return restore(tensors, findDevice(device))
}

// Keys and values of whole sequences, (b, length, hk, d).
function rowsBack(
  stored: Stored,
  device: Device,
  make: (shape: KVShape, length: number) => ContiguousCache | PagedCache,
): KVCache {
  const [k, v] = keysAndValues(stored)
  const [batch, length, heads, keyDim] = k.shape as [number, number, number, number]
  const dtype = k.dtype === 'int8' ? 'float32' : (k.dtype as FloatDType)
  const shape = { batch, heads, keyDim, valueDim: v.shape[3]!, dtype, device }
  return filled(stored, make(shape, length), (cache) => {
    const parts = cache instanceof ContiguousCache ? Object.entries(cache.parts()) : []
    for (const [name, part] of parts) expectStored(stored, name, [batch, length, ...part.shape], part.dtype)
    expectStored(stored, 'v', [batch, length, heads, shape.valueDim], k.dtype)
  })
}

// Rings, whose form says how long they are.
function ringBack(stored: Stored, device: Device): KVCache {
  const [k, v] = keysAndValues(stored)
  const { data } = stored.form ?? {}
  const [batch = 0, length = -1, window = 0, longest = -1, sinks] = data instanceof Int32Array ? data : []
  const pages = window > 0 ? batch * ringPages(window, sinks) : -1
  if (batch < 1 || length < 0 || longest < length || (sinks !== undefined && sinks < 1) || k.shape[0] !== pages)
    throw damaged('cache', `form: expected the batch, length and window of a ring of ${k.shape[0]!} pages, got others`)
  const { heads, keyDim } = { heads: k.shape[2]!, keyDim: k.shape[3]! }
  const shape = { batch, heads, keyDim, valueDim: v.shape[3]!, dtype: k.dtype as FloatDType, device }
  const made =
    sinks === undefined ? new SlidingCache(shape, window, length) : new StreamingCache(shape, window, sinks, length)
  return filled(stored, made, (cache) => {
    const state = cache.state()
    try {
      for (const [name, t] of Object.entries(state)) if (name !== 'form') expectStored(stored, name, t.shape, t.dtype)
    } finally {
      state.form!.dispose()
    }
    cache.longestWas(longest)
  })
}

// Memory is asked for only when the bytes are known to fit it: `check` looks at the rest of them.
function filled<C extends KVCache & { fill(stored: Record<string, Tensor>): void }>(
  stored: Stored,
  cache: C,
  check: (cache: C) => void,
): C {
  const { device } = cache.shape
  try {
    check(cache)
    scope(() => {
      const placed = Object.entries(stored).map(([name, t]) => {
        return [name, tensor(t.data, { shape: [...t.shape], dtype: t.dtype, device })] as const
      })
      cache.fill(Object.fromEntries(placed))
    })
    return cache
  } catch (error) {
    cache.dispose()
    throw error
  }
}

function keysAndValues({ k, v }: Stored): [StoredTensor, StoredTensor] {
  for (const [name, t] of [
    ['k', k],
    ['v', v],
  ] as const) {
    const good = t?.shape.length === 4 && (isFloat(t.dtype) || t.dtype === 'int8')
    if (!good || !t.shape.every((n, i) => n > 0 || i === 1))
      throw damaged('cache', `${name}: expected keys or values of four dimensions, got ${described(t)}`)
  }
  return [k!, v!]
}

function expectStored(stored: Stored, name: string, shape: readonly number[], dtype: string): void {
  const t = stored[name]
  if (t && t.dtype === dtype && t.shape.join() === shape.join()) return
  throw damaged('cache', `${name}: expected ${dtype} (${shape.join(', ')}), got ${described(t)}`)
}

function described(t: StoredTensor | undefined): string {
  return t ? `${t.dtype} (${t.shape.join(', ')})` : 'nothing'
}

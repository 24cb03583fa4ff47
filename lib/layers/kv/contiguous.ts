import { rangeError, shown } from '../../errors.js'
import { empty, flashAttentionWithKvCache, keep, scope, type DType, type Tensor } from '../../index.js'
import { KVCache, MOST_SEQUENCES, type Attending, type KVShape } from './kv-cache.js'

/** Tokens that have room at first, where nothing else is asked for. */
const FIRST = 64

/** What a token has in a cache, by name: the shape behind (b, tokens), and the dtype. */
export type Parts = Record<string, { readonly shape: readonly number[]; readonly dtype: DType }>

/**
 * A cache in one piece of memory, (b, capacity, hk, d) for keys and for values, whose capacity doubles when it is full. Give the
 * capacity where the length is known: growing copies, and for that moment needs both pieces.
 */
export class ContiguousCache extends KVCache {
  readonly kind: string = 'kv'
  protected buffers: Record<string, Tensor> = {}

  /** @internal */
  constructor(shape: KVShape, capacity = FIRST, length = 0) {
    super(shape, length)
    this.replace(Math.max(capacity, length, 1), 0)
  }

  /** tokens that there is memory for */
  get capacity(): number {
    return Object.values(this.buffers)[0]!.shape[1]!
  }

  clone(): ContiguousCache {
    return this.filled(this.sibling(this.shape, this.capacity, this.length).turnedBy(this.rope), (part) => part)
  }

  /** A cache whose sequence i goes on from sequence rows[i] of this one: for beams, or many answers to one prompt. */
  select(rows: readonly number[]): ContiguousCache {
    checkRows(rows, this.batch)
    const copy = this.sibling({ ...this.shape, batch: rows.length }, this.capacity, this.length)
    rows.forEach((from, to) => copySequence(this.buffers, from, copy.buffers, to, this.length))
    return copy.turnedBy(this.rope)
  }

  state(): Record<string, Tensor> {
    const parts = Object.entries(this.buffers).map(([name, t]) => [name, t.narrow(1, 0, this.length)])
    return Object.fromEntries(parts) as Record<string, Tensor>
  }

  tensors(): Tensor[] {
    return [this.seqlens, ...Object.values(this.buffers)]
  }

  /** @internal takes what was saved */
  fill(stored: Readonly<Record<string, Tensor>>): void {
    this.filled(this, (_, name) => stored[name]!)
  }

  /** @internal the shape of each part behind (b, tokens) */
  parts(): Parts {
    const { heads, keyDim, valueDim, dtype } = this.shape
    return { k: { shape: [heads, keyDim], dtype }, v: { shape: [heads, valueDim], dtype } }
  }

  protected sibling(shape: KVShape, capacity: number, length: number): ContiguousCache {
    return new ContiguousCache(shape, capacity, length)
  }

  protected hasRoom(tokens: number): boolean {
    return this.length + tokens <= this.capacity
  }

  protected makeRoom(tokens: number): boolean {
    if (this.hasRoom(tokens)) return false
    this.replace(Math.max(this.length + tokens, 2 * this.capacity), this.length)
    return true
  }

  protected take(q: Tensor, k: Tensor, v: Tensor, how: Attending): Tensor {
    const options = { ...this.places(how), k, v, ...this.scales() }
    const out = flashAttentionWithKvCache(q, this.buffers.k!, this.buffers.v!, options)
    this.advance(q.shape[1]!)
    return out
  }

  /** What the op needs beside keys and values. */
  protected scales(): object {
    return {}
  }

  // New buffers, with the first tokens of the old ones.
  private replace(capacity: number, length: number): void {
    const { batch, device } = this.shape
    const next: Record<string, Tensor> = {}
    scope(() => {
      for (const [name, { shape, dtype }] of Object.entries(this.parts())) {
        const grown = empty([batch, capacity, ...shape], { dtype, device })
        if (length > 0) grown.narrow(1, 0, length).copyFrom(this.buffers[name]!.narrow(1, 0, length))
        next[name] = grown
      }
      Object.values(next).forEach(keep)
    })
    for (const t of Object.values(this.buffers)) t.dispose()
    this.buffers = next
  }

  private filled(target: ContiguousCache, source: (part: Tensor, name: string) => Tensor): ContiguousCache {
    const { length } = this
    if (length === 0) return target
    scope(() => {
      for (const [name, part] of Object.entries(this.buffers))
        target.buffers[name]!.narrow(1, 0, length).copyFrom(source(part, name).narrow(1, 0, length))
    })
    return target
  }
}

/** @internal Throws for what are no numbers of sequences. */
export function checkRows(rows: readonly number[], batch: number): void {
  const good = Array.isArray(rows) && rows.length > 0 && rows.length <= MOST_SEQUENCES
  const wrong = good ? rows.findIndex((row) => !Number.isSafeInteger(row) || row < 0 || row >= batch) : 0
  if (!good || wrong >= 0)
    throw rangeError('ERR_OPTION', 'rows', `an array of whole numbers below ${batch}`, shown(good ? rows[wrong] : rows))
}

function copySequence(
  from: Readonly<Record<string, Tensor>>,
  row: number,
  to: Readonly<Record<string, Tensor>>,
  target: number,
  length: number,
): void {
  scope(() => {
    for (const [name, part] of Object.entries(from))
      to[name]!.narrow(0, target, 1)
        .narrow(1, 0, length)
        .copyFrom(part.narrow(0, row, 1).narrow(1, 0, length))
  })
}

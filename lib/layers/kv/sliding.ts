import { cat, flashAttentionWithKvCache, keep, scope, tensor, zeros, type Tensor } from '../../index.js'
import { KVCache, type Attending, type KVShape } from './kv-cache.js'

/** Tokens that go through at once, at most; as many as the window has, within these. */
const LEAST_PIECE = 64
const MOST_PIECE = 1024

/** Pages of a power of two of keys, 16 at least: an eighth of the window, so that a ring is little longer than it must be. */
function pageOf(window: number): number {
  let page = 16
  while (page < 256 && page * 8 < window) page *= 2
  return page
}

// Pages of a ring: of the keys that are seen, and of a piece.
function pagesFor(window: number, spared: number): number {
  const wanted = window - 1 + spared + Math.min(MOST_PIECE, Math.max(LEAST_PIECE, window))
  return Math.ceil(wanted / pageOf(window))
}

/** @internal pages of a sequence's ring, with sinks where there are some */
export function ringPages(window: number, sinks?: number): number {
  return pagesFor(window, sinks === undefined ? 0 : sinks + 1)
}

/**
 * A cache of the last tokens, in memory that does not grow: a ring. The keys of a window, and room for the tokens of one piece of
 * a prompt, lie in pages that are used again and again; the table that says which one holds position p repeats itself (it takes
 * four bytes a page of context). Positions go on rising, so that keys are rotated once.
 *
 * A token sees `window` tokens, itself included. It can be rolled back by as many tokens as a piece has.
 */
export class SlidingCache extends KVCache {
  readonly kind: string = 'kv-sliding'
  /** keys of a ring, of which one piece's are room for new ones */
  readonly slots: number
  protected readonly page: number
  /** tokens that may come at once: the window of the first of them stays whole */
  protected readonly piece: number
  protected readonly k: Tensor
  protected readonly v: Tensor
  protected table: Tensor
  // The longest that the sequences have been: older keys than a ring holds are gone.
  protected longest: number

  /** @internal `spared` more keys stay than a window has */
  constructor(
    shape: KVShape,
    /** tokens that a token sees */
    readonly window: number,
    length = 0,
    spared = 0,
  ) {
    super(shape, length)
    const { batch, heads, keyDim, valueDim, dtype, device } = shape
    this.page = pageOf(window)
    this.slots = pagesFor(window, spared) * this.page
    this.piece = this.slots - (window - 1 + spared)
    this.longest = length
    const pages = (batch * this.slots) / this.page
    // Zeros, since the whole of it is saved.
    this.k = zeros([pages, this.page, heads, keyDim], { dtype, device })
    this.v = zeros([pages, this.page, heads, valueDim], { dtype, device })
    this.table = this.tableOf(Math.ceil((length + this.slots) / this.page))
  }

  clone(): SlidingCache {
    const copy = this.sibling(this.length).turnedBy(this.rope)
    copy.k.copyFrom(this.k)
    copy.v.copyFrom(this.v)
    copy.longest = this.longest
    return copy
  }

  state(): Record<string, Tensor> {
    return { k: this.k, v: this.v, form: this.form() }
  }

  tensors(): Tensor[] {
    return [this.seqlens, this.k, this.v, this.table]
  }

  /** @internal takes what was saved */
  fill(stored: Readonly<Record<string, Tensor>>): void {
    this.k.copyFrom(stored.k!)
    this.v.copyFrom(stored.v!)
  }

  /** What its kind needs to be made again. */
  protected form(): Tensor {
    return tensor(Int32Array.of(this.batch, this.length, this.window, this.longest), { device: this.shape.device })
  }

  /** @internal */
  longestWas(length: number): void {
    this.longest = length
  }

  protected sibling(length: number): SlidingCache {
    return new SlidingCache(this.shape, this.window, length)
  }

  protected hasRoom(tokens: number): boolean {
    return this.length + tokens <= this.table.shape[1]! * this.page
  }

  protected makeRoom(tokens: number): boolean {
    if (this.hasRoom(tokens)) return false
    const next = this.tableOf(Math.max(Math.ceil((this.length + tokens) / this.page), 2 * this.table.shape[1]!))
    this.table.dispose()
    this.table = next
    return true
  }

  protected take(q: Tensor, k: Tensor, v: Tensor, how: Attending): Tensor {
    return this.inPieces(q, k, v, (a, b, c) => this.see(a, b, c, { ...how, window: this.windowOf(how) }))
  }

  protected windowOf(how: Attending): number {
    return Math.min(this.window, how.window ?? Infinity)
  }

  /** Tokens in pieces that the ring has room for. */
  protected inPieces(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    each: (q: Tensor, k: Tensor, v: Tensor) => Tensor,
    bounds: readonly number[] = [],
  ): Tensor {
    const count = q.shape[1]!
    const outs: Tensor[] = []
    for (let at = 0; at < count || outs.length === 0;) {
      const end = Math.min(count, at + this.piece, ...bounds.filter((b) => b > at))
      const part = (t: Tensor): Tensor => t.narrow(1, at, end - at)
      outs.push(end - at === count ? each(q, k, v) : each(part(q), part(k), part(v)))
      at = end
    }
    return outs.length === 1 ? outs[0]! : cat(outs, 1)
  }

  /** Takes a piece into the ring, and what it sees there. */
  protected see(q: Tensor, k: Tensor, v: Tensor, how: Attending): Tensor {
    const out = flashAttentionWithKvCache(q, this.k, this.v, { ...this.places(how), k, v, blockTable: this.table })
    this.advance(q.shape[1]!)
    return out
  }

  protected override advance(tokens: number): void {
    super.advance(tokens)
    this.longest = Math.max(this.longest, this.length)
  }

  override counted(tokens: number): void {
    super.counted(tokens)
    this.longest = Math.max(this.longest, this.length)
  }

  override get rollbackMost(): number {
    let most = 0
    while (most < this.length && this.longest - this.slots <= this.oldestSeen(this.length - most - 1)) most++
    return most
  }

  /** The first key that a token at this position sees. */
  protected oldestSeen(position: number): number {
    return Math.max(0, position - this.window + 1)
  }

  override reset(): void {
    super.reset()
    this.longest = 0
  }

  private tableOf(width: number): Tensor {
    const { batch, device } = this.shape
    const ring = this.slots / this.page
    const entries = Int32Array.from(
      { length: batch * width },
      (_, i) => Math.floor(i / width) * ring + ((i % width) % ring),
    )
    return scope(() => keep(tensor(entries, { shape: [batch, width], device })))
  }
}

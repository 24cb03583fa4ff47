import {
  add,
  cat,
  flashAttention,
  flashAttentionWithKvCache,
  mul,
  rotary,
  scope,
  softmax,
  tensor,
  zeros,
} from '../../index.js'
import type { Tensor } from '../../index.js'
import { scoring, type Attending, type KVShape } from './kv-cache.js'
import { SlidingCache } from './sliding.js'

/**
 * A cache of the first tokens, the attention sinks, and of a window of the last ones, in memory that does not grow (Xiao et al.,
 * StreamingLLM, 2023). Until `sinks + window` tokens have come a token sees all of them. From then on it sees the sinks, as if
 * they were just before the window: positions are those within the cache, at most sinks + window of them, so that no distance is
 * longer than that, however long the text.
 *
 * Positions count only by their differences. So the keys of the window stay rotated by their places in the text, as they were
 * written; the sinks stay at 0, 1, …; and for these, queries are rotated to the last place of the cache. The two attentions are
 * joined by their sums.
 */
export class StreamingCache extends SlidingCache {
  override readonly kind: string = 'kv-sinks'
  private readonly sinkK: Tensor
  private readonly sinkV: Tensor
  /** (piece) int32: the place of every query, as the sinks have it */
  private readonly last: Tensor
  private saved = false
  private streaming = false

  /** @internal */
  constructor(
    shape: KVShape,
    window: number,
    /** tokens at the beginning that every token sees */
    readonly sinks: number,
    length = 0,
  ) {
    super(shape, window, length, sinks + 1)
    const { batch, heads, keyDim, valueDim, dtype, device } = shape
    this.sinkK = zeros([batch, sinks, heads, keyDim], { dtype, device })
    this.sinkV = zeros([batch, sinks, heads, valueDim], { dtype, device })
    this.last = tensor(new Int32Array(this.piece).fill(this.full - 1), { device })
    this.saved = this.streaming = length >= this.full
  }

  override clone(): StreamingCache {
    const copy = super.clone() as StreamingCache
    copy.sinkK.copyFrom(this.sinkK)
    copy.sinkV.copyFrom(this.sinkV)
    copy.saved = this.saved
    return copy
  }

  override state(): Record<string, Tensor> {
    return { ...super.state(), sink_k: this.sinkK, sink_v: this.sinkV }
  }

  override tensors(): Tensor[] {
    return [...super.tensors(), this.sinkK, this.sinkV, this.last]
  }

  /** @internal */
  override fill(stored: Readonly<Record<string, Tensor>>): void {
    super.fill(stored)
    this.sinkK.copyFrom(stored.sink_k!)
    this.sinkV.copyFrom(stored.sink_v!)
  }

  override reset(): void {
    super.reset()
    this.saved = this.streaming = false
  }

  protected override form(): Tensor {
    const { batch, length, window, longest, sinks } = this
    return tensor(Int32Array.of(batch, length, window, longest, sinks), { device: this.shape.device })
  }

  // What comes again may be other sinks.
  protected override cut(): void {
    if (this.length < this.full) this.saved = false
  }

  protected override sibling(length: number): StreamingCache {
    return new StreamingCache(this.shape, this.window, this.sinks, length)
  }

  // A step after this many tokens asks for other ops than one before.
  protected override makeRoom(tokens: number): boolean {
    const moved = super.makeRoom(tokens)
    const changed = this.streaming !== this.length >= this.full
    this.streaming = this.length >= this.full
    if (this.streaming) this.saveSinks()
    return moved || changed
  }

  protected override take(q: Tensor, k: Tensor, v: Tensor, how: Attending): Tensor {
    const each = (a: Tensor, b: Tensor, c: Tensor): Tensor => {
      if (this.length < this.full) return this.see(a, b, c, how)
      this.saveSinks()
      return this.stream(a, b, c, how)
    }
    return this.inPieces(q, k, v, each, [this.full - this.length])
  }

  protected override oldestSeen(position: number): number {
    return position < this.full ? 0 : super.oldestSeen(position)
  }

  /** tokens that are seen whole */
  private get full(): number {
    return this.sinks + this.window
  }

  private stream(q: Tensor, k: Tensor, v: Tensor, how: Attending): Tensor {
    const count = q.shape[1]!
    const tables = how.rope?.upTo(this.full)
    const turned = tables
      ? rotary(q, tables.cos, tables.sin, {
          positions: this.last.narrow(0, 0, count),
          interleaved: how.rope!.interleaved,
        })
      : q
    // A learned sink joins one of the two sums.
    const first = flashAttention(turned, this.sinkK, this.sinkV, {
      ...scoring({ ...how, sinks: undefined }),
      returnLse: true,
    })
    const options = { ...this.places({ ...how, window: this.window }), k, v, blockTable: this.table, returnLse: true }
    const recent = flashAttentionWithKvCache(q, this.k, this.v, options as typeof options & { returnLse: true })
    this.advance(count)
    return joined(first, recent)
  }

  // While the ring still has them.
  private saveSinks(): void {
    if (this.saved) return
    this.saved = true
    const { batch } = this.shape
    scope(() => {
      for (const [to, from] of [
        [this.sinkK, this.k],
        [this.sinkV, this.v],
      ] as const) {
        const ring = from.reshape([batch, this.slots, ...from.shape.slice(2)])
        to.copyFrom(ring.narrow(1, 0, this.sinks))
      }
    })
  }
}

type Part = { out: Tensor; lse: Tensor }

/** Softmax over the keys of both, from the softmax over those of each: out (b, L, h, d), lse (b, h, L). */
function joined(a: Part, b: Part): Tensor {
  const [batch, heads, count] = a.lse.shape as [number, number, number]
  const column = (t: Tensor): Tensor => t.reshape([batch, heads, count, 1])
  const shares = softmax(cat([column(a.lse), column(b.lse)], 3)).transpose(1, 2)
  const weighed = ({ out }: Part, i: number): Tensor => mul(out.to('float32'), shares.narrow(3, i, 1))
  return add(weighed(a, 0), weighed(b, 1)).to(a.out.dtype)
}

// What every kind of KV cache shares: how many tokens there are, on the host, where memory is found for more, and on the
// device, where kernels look; and that a layer attends through it.

import { isRecording } from '../../capture.js'
import { rangeError, SeqmixError, shown } from '../../errors.js'
import { increment, scope, tensor, type Device, type FloatDType, type Tensor } from '../../index.js'
import { whole } from '../../options.js'
import { saveTensors, type LayerCache } from '../cache.js'
import type { Rope } from '../rope.js'
import { bytesIn } from '../state.js'

/** @internal sequences of a batch, at most */
export const MOST_SEQUENCES = 65_536

/** What a layer's keys and values are. */
export interface KVShape {
  /** sequences */
  readonly batch: number
  /** KV heads */
  readonly heads: number
  /** elements of a key */
  readonly keyDim: number
  /** elements of a value */
  readonly valueDim: number
  /** of what is held; in int8 of what is asked for and returned */
  readonly dtype: FloatDType
  readonly device: Device
}

/** How a layer makes weights of scores, beside the causal mask. */
export interface Attending {
  readonly rope?: Rope | undefined
  /** a token sees so many tokens, itself included */
  readonly window?: number | undefined
  readonly softcap?: number | undefined
  readonly scale?: number | undefined
  /** (hq) */
  readonly sinks?: Tensor | undefined
}

/**
 * Keys and values of the tokens that a layer has seen, b sequences which advance together. A layer asks it for the attention of
 * new tokens, whose keys and values it takes in; what it keeps of them, and where, is its kind's business.
 */
export abstract class KVCache implements LayerCache {
  abstract readonly kind: string
  /** (b) int32 on the device: `length` for kernels */
  protected readonly seqlens: Tensor
  private tokens: number
  protected rope: Rope | undefined
  private ropeRows = 0

  /** @internal */
  constructor(
    readonly shape: KVShape,
    length = 0,
  ) {
    this.tokens = length
    this.seqlens = tensor(new Int32Array(shape.batch).fill(length), { device: shape.device })
  }

  get batch(): number {
    return this.shape.batch
  }

  /** tokens that each sequence has */
  get length(): number {
    return this.tokens
  }

  /** bytes of device memory it holds */
  get bytes(): number {
    return bytesIn(this.tensors())
  }

  /**
   * @internal Attention of the tokens that come next, in any number.
   *
   * @param q (b, L, hq, d), @param k (b, L, hk, d), @param v (b, L, hk, dv), not rotated yet, of one dtype; they are held in
   *   the cache's
   * @returns (b, L, hq, dv) of q's dtype
   */
  attend(q: Tensor, k: Tensor, v: Tensor, how: Attending): Tensor {
    const count = q.shape[1]!
    this.rope = how.rope
    this.expectRoom(count)
    return scope(() => {
      const { dtype } = this.shape
      const [a, b, c] = q.dtype === dtype ? [q, k, v] : [q.to(dtype), k.to(dtype), v.to(dtype)]
      const out = this.take(a, b, c, how)
      return out.dtype === q.dtype ? out : out.to(q.dtype)
    })
  }

  /** @internal the tables that the layer's keys are rotated by, which have to be long enough too */
  turnedBy(rope: Rope | undefined): this {
    this.rope = rope
    return this
  }

  /**
   * Finds memory for so many more tokens of each sequence. Layers do so by themselves, but not while a graph is captured or
   * run: then it is called before.
   *
   * @returns whether tensors moved, so that a captured step must be captured again
   */
  prepare(tokens: number): boolean {
    whole(tokens, 'tokens', 0)
    let moved = this.makeRoom(tokens)
    if (this.rope) {
      this.rope.upTo(this.tokens + tokens)
      moved ||= this.rope.rows !== this.ropeRows
      this.ropeRows = this.rope.rows
    }
    return moved
  }

  /** Counts tokens that came by the run of a graph. */
  counted(tokens: number): void {
    whole(tokens, 'tokens', 0)
    this.tokens += tokens
  }

  /** Takes the last tokens of each sequence back, as if they had not come. ERR_OPTION for more than it can. */
  rollback(tokens: number): void {
    const most = this.rollbackMost
    if (!Number.isSafeInteger(tokens) || tokens < 0 || tokens > most)
      throw rangeError('ERR_OPTION', 'tokens', `a whole number from 0 to ${most}`, shown(tokens))
    if (tokens === 0) return
    increment(this.seqlens, -tokens)
    this.tokens -= tokens
    this.cut()
  }

  /** Forgets the context. */
  reset(): void {
    increment(this.seqlens, -this.tokens)
    this.tokens = 0
    this.cut()
  }

  /** The cache as the bytes of a safetensors file. */
  save(): Promise<Uint8Array> {
    return saveTensors(this.state(), { kind: this.kind }, this.tensors())
  }

  dispose(): void {
    for (const t of this.tensors()) t.dispose()
  }

  /** An independent copy on the same device: a fork of the context. */
  abstract clone(): KVCache
  abstract state(): Record<string, Tensor>
  abstract tensors(): Tensor[]

  /** Room for more tokens: whether tensors moved, or other ops are needed from now on. */
  protected abstract makeRoom(tokens: number): boolean
  /** Takes new tokens in, and attends. Everything is of the cache's dtype, and there is room. */
  protected abstract take(q: Tensor, k: Tensor, v: Tensor, how: Attending): Tensor

  /** tokens that can be taken back */
  get rollbackMost(): number {
    return this.tokens
  }

  /** Called when tokens were taken back. */
  protected cut(): void {}

  /** What the op over a cache takes: the places, and how scores are made. */
  protected places(how: Attending): object {
    const tables = how.rope?.upTo(this.tokens + 1)
    return {
      cacheSeqlens: this.seqlens,
      ...(tables ? { rotaryCos: tables.cos, rotarySin: tables.sin, rotaryInterleaved: how.rope!.interleaved } : {}),
      causal: true,
      window: how.window === undefined ? null : [how.window - 1, 0],
      ...scoring(how),
    }
  }

  /** Counts tokens that were just taken in. What is recorded is counted when it runs. */
  protected advance(tokens: number): void {
    increment(this.seqlens, tokens)
    if (!isRecording()) this.tokens += tokens
  }

  private expectRoom(tokens: number): void {
    if (!isRecording()) {
      this.prepare(tokens)
      return
    }
    if (this.hasRoom(tokens) && (!this.rope || this.rope.rows >= this.tokens + tokens)) return
    throw new SeqmixError(
      'ERR_UNSUPPORTED',
      `cache: expected room for ${tokens} more tokens inside a captured function, got none: call prepare(${tokens}) before`,
    )
  }

  /** Whether so many tokens find room as things are. */
  protected abstract hasRoom(tokens: number): boolean
}

/** The options of attention that do not depend on where keys are. */
export function scoring({ softcap, scale, sinks }: Attending): object {
  return { softcap: softcap ?? 0, scale: scale ?? null, sinks: sinks ?? null }
}

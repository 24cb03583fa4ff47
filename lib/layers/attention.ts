// The attention layer of decoders, as Hugging Face checkpoints of llama and its relatives hold it.
//
//   q, k, v = q_proj(x), k_proj(x), v_proj(x), in heads;     of some models q and k are RMS-normalised, head by head
//   q, k rotated by their positions
//   out = o_proj(softmax(scale·q kᵀ, softcap, causal mask, window, sinks) v)
//
// Query heads share KV heads where there are fewer of these. Keys and values of a context are a cache's (kv/), which writes
// them where they stay and attends in one pass; without one they are this call's alone.
//
// The layer computes in the dtype of its input; its weights keep the dtypes they came in.

import { floatOption } from '../dtype.js'
import { rangeError, shown, typeError } from '../errors.js'
import type { Tensor } from '../index.js'
import { flashAttention, linear, rmsNorm, rotary, scope, type Device } from '../index.js'
import { checkOptions } from '../options.js'
import { kvOptionNames, makeKVCache, type KVCacheOptions } from './kv/index.js'
import { KVCache, MOST_SEQUENCES, scoring, type Attending } from './kv/kv-cache.js'
import { Rope, type RopeConfig } from './rope.js'
import { expectInput, expectObject, layerDevice, positiveIn, sizeIn, Weights, type StateDict } from './state.js'

/** An attention layer's part of config.json, under the names it has there. */
export interface AttentionConfig extends RopeConfig {
  readonly hidden_size: number
  readonly num_attention_heads: number
  /** KV heads, a divisor of num_attention_heads, which is the default; 1 is multi-query attention */
  readonly num_key_value_heads?: number | null
  /** elements of a head (hidden_size / num_attention_heads) */
  readonly head_dim?: number | null
  /** whether the projections of q, k and v have a bias (false) */
  readonly attention_bias?: boolean
  /** whether o_proj has one (attention_bias) */
  readonly attention_out_bias?: boolean
  /** whether heads of q and k are RMS-normalised, with weights q_norm and k_norm (false) */
  readonly qk_norm?: boolean
  readonly rms_norm_eps?: number
  /** whether there is a learned logit per head that joins the softmax's sum, `sinks` (false) */
  readonly attention_sinks?: boolean
  /** tokens that a token sees, itself included; null for all */
  readonly sliding_window?: number | null
  /** c: scores become c·tanh(score / c); null for as they are */
  readonly attn_logit_softcapping?: number | null
  /** scores are q·k over the root of this (head_dim) */
  readonly query_pre_attn_scalar?: number
}

/** A layer's sizes, with every default filled in. */
export interface AttentionSizes {
  readonly hidden: number
  readonly heads: number
  readonly kvHeads: number
  readonly headDim: number
}

/** The sizes a config stands for. */
export function attentionSizes(config: AttentionConfig): AttentionSizes {
  expectObject(config, 'config')
  const hidden = sizeIn(config.hidden_size, 'hidden_size')
  const heads = sizeIn(config.num_attention_heads, 'num_attention_heads')
  const kvHeads = sizeIn(config.num_key_value_heads ?? heads, 'num_key_value_heads')
  const headDim = sizeIn(config.head_dim ?? hidden / heads, 'head_dim')
  if (heads % kvHeads !== 0)
    throw rangeError('ERR_OPTION', 'num_key_value_heads', `a divisor of num_attention_heads, ${heads}`, shown(kvHeads))
  if (headDim % 8 !== 0 || headDim > 512)
    throw rangeError('ERR_OPTION', 'head_dim', 'a multiple of 8 up to 512', shown(headDim))
  return { hidden, heads, kvHeads, headDim }
}

/** The names and shapes of a layer's tensors. */
export function attentionShapes(config: AttentionConfig): Record<string, readonly number[]> {
  const { hidden, heads, kvHeads, headDim } = attentionSizes(config)
  const bias = config.attention_bias ?? false
  return {
    'q_proj.weight': [heads * headDim, hidden],
    'k_proj.weight': [kvHeads * headDim, hidden],
    'v_proj.weight': [kvHeads * headDim, hidden],
    'o_proj.weight': [hidden, heads * headDim],
    ...(bias ? { 'q_proj.bias': [heads * headDim] } : {}),
    ...(bias ? { 'k_proj.bias': [kvHeads * headDim], 'v_proj.bias': [kvHeads * headDim] } : {}),
    ...((config.attention_out_bias ?? bias) ? { 'o_proj.bias': [hidden] } : {}),
    ...(config.qk_norm ? { 'q_norm.weight': [headDim], 'k_norm.weight': [headDim] } : {}),
    ...(config.attention_sinks ? { sinks: [heads] } : {}),
  }
}

export interface AttentionOptions {
  /** where to compute; by default where the state's first Tensor is */
  device?: Device | string
  /** tables that layers share; by default the layer has its own */
  rope?: Rope | undefined
}

export class Attention {
  readonly config: AttentionConfig
  readonly sizes: AttentionSizes
  readonly device: Device
  private readonly weights: Weights
  private readonly tensorOf: Readonly<Record<string, Tensor>>
  private readonly how: Attending
  private readonly ownRope: Rope | undefined

  /**
   * @param config as in config.json; see {@link AttentionConfig}. Heads are rotated where it has rope_theta, rope_parameters or
   *   rope_scaling, of the kinds default, linear, dynamic, yarn and llama3
   * @param state tensors under the checkpoint's names: `q_proj.weight` (heads·head_dim, hidden), `k_proj.weight` and
   *   `v_proj.weight` (kv_heads·head_dim, hidden), `o_proj.weight` (hidden, heads·head_dim), and as the config says `.bias` of
   *   each, `q_norm.weight` and `k_norm.weight` (head_dim), `sinks` (heads). Each float32, float16 or bfloat16, and kept as it
   *   is. The layer takes handles of its own; those passed stay the caller's.
   * @throws SeqmixError ERR_CHECKPOINT for a tensor that is missing or has another shape; ERR_UNSUPPORTED for a rope_type that
   *   it does not have, or weights of integers; ERR_OPTION for a config that makes no sense
   */
  constructor(config: AttentionConfig, state: StateDict, options: AttentionOptions = {}) {
    this.sizes = attentionSizes(config)
    this.config = config
    checkOptions(options, ['device', 'rope'])
    const { rope, device } = options
    if (rope !== undefined && !(rope instanceof Rope)) throw typeError('ERR_OPTION', 'rope', 'a Rope', shown(rope))
    this.device = layerDevice(state, device === undefined ? {} : { device })
    const { headDim } = this.sizes
    if (rope === undefined) this.ownRope = Rope.of(config, headDim, this.device)
    const window = config.sliding_window ?? undefined
    const softcap = config.attn_logit_softcapping ?? undefined
    if (softcap !== undefined) positiveIn(softcap, 'attn_logit_softcapping')
    const divisor = positiveIn(config.query_pre_attn_scalar ?? headDim, 'query_pre_attn_scalar')
    const w = (this.weights = new Weights('Attention', state, this.device))
    this.tensorOf = w.takeAll(attentionShapes(config))
    this.how = {
      rope: rope ?? this.ownRope,
      window: window === undefined ? undefined : sizeIn(window, 'sliding_window'),
      softcap,
      scale: 1 / Math.sqrt(divisor),
      sinks: this.tensorOf.sinks,
    }
  }

  /** Number of weights. */
  get parameters(): number {
    return this.weights.tensors().reduce((n, t) => n + t.size, 0)
  }

  /**
   * A cache for a batch that has seen nothing.
   *
   * @param batch number of sequences, at most 65536, which advance together
   * @param options what keys and values are kept in; see {@link KVCacheOptions}. `dtype` should be that of x (float32): others
   *   are converted at each call
   */
  newCache(batch = 1, options: KVCacheOptions = {}): KVCache {
    if (sizeIn(batch, 'batch') > MOST_SEQUENCES)
      throw rangeError('ERR_OPTION', 'batch', `a whole number from 1 to ${MOST_SEQUENCES}`, shown(batch))
    checkOptions(options, kvOptionNames)
    const { kvHeads, headDim } = this.sizes
    const dtype = floatOption(options.dtype) ?? 'float32'
    const shape = { batch, heads: kvHeads, keyDim: headDim, valueDim: headDim, dtype, device: this.device }
    return scope(() => makeKVCache(shape, options, this.how.window, this).turnedBy(this.how.rope))
  }

  /**
   * The layer over a whole sequence or a piece of one.
   *
   * @param x (b, L, hidden), float32, float16 or bfloat16
   * @param cache the context before x, changed into the context after it; without one, x begins a sequence
   * @param options.residual (b, L, hidden) of x's dtype, added to the result in the same pass
   * @returns (b, L, hidden) of x's dtype
   */
  forward(x: Tensor, cache?: KVCache, options: { residual?: Tensor | undefined } = {}): Tensor {
    checkOptions(options, ['residual'])
    expectInput(x, 3, options.residual)
    if (cache !== undefined) expectCache(cache, x.shape[0]!)
    const [batch, length] = x.shape as [number, number]
    const { heads, kvHeads, headDim } = this.sizes
    return scope(() => {
      const inHeads = (t: Tensor, count: number): Tensor => t.reshape([batch, length, count, headDim])
      const q = this.normed(inHeads(this.project(x, 'q_proj'), heads), 'q_norm')
      const k = this.normed(inHeads(this.project(x, 'k_proj'), kvHeads), 'k_norm')
      const v = inHeads(this.project(x, 'v_proj'), kvHeads)
      const out = cache ? cache.attend(q, k, v, this.how) : this.attend(q, k, v)
      return this.project(out.reshape([batch, length, heads * headDim]), 'o_proj', options.residual)
    })
  }

  /**
   * The layer over one more token of each sequence: what {@link forward} gives for L = 1.
   *
   * @param x (b, hidden), float32, float16 or bfloat16
   * @param cache the context, changed in place
   * @param options.residual (b, hidden) of x's dtype, added to the result in the same pass
   * @returns (b, hidden) of x's dtype
   */
  step(x: Tensor, cache: KVCache, options: { residual?: Tensor | undefined } = {}): Tensor {
    checkOptions(options, ['residual'])
    expectInput(x, 2, options.residual)
    expectCache(cache, x.shape[0]!)
    const [batch, hidden] = x.shape as [number, number]
    return scope(() => {
      const residual = options.residual?.reshape([batch, 1, hidden])
      return this.forward(x.reshape([batch, 1, hidden]), cache, { residual }).reshape([batch, hidden])
    })
  }

  /** Its weights: a scope that returns the layer leaves them alone. */
  tensors(): readonly Tensor[] {
    return [...this.weights.tensors(), ...(this.ownRope?.tensors() ?? [])]
  }

  /** Frees the layer's weights; a second call does nothing. */
  dispose(): void {
    this.weights.dispose()
    this.ownRope?.dispose()
  }

  private attend(q: Tensor, k: Tensor, v: Tensor): Tensor {
    const { rope, window } = this.how
    const tables = rope?.upTo(q.shape[1]!)
    const turned = (t: Tensor): Tensor =>
      tables ? rotary(t, tables.cos, tables.sin, { interleaved: rope!.interleaved }) : t
    const options = {
      causal: true,
      window: window === undefined ? null : ([window - 1, 0] as const),
      ...scoring(this.how),
    }
    return flashAttention(turned(q), turned(k), v, options)
  }

  private project(x: Tensor, name: string, residual?: Tensor): Tensor {
    return linear(x, this.tensorOf[`${name}.weight`]!, { bias: this.tensorOf[`${name}.bias`], residual })
  }

  private normed(x: Tensor, name: string): Tensor {
    const weight = this.tensorOf[`${name}.weight`]
    return weight ? rmsNorm(x, weight, { eps: this.config.rms_norm_eps ?? 1e-6 }) : x
  }
}

function expectCache(cache: unknown, batch: number): KVCache {
  if (!(cache instanceof KVCache)) throw typeError('ERR_OPTION', 'cache', 'what newCache returns', shown(cache))
  if (cache.batch !== batch) throw rangeError('ERR_SHAPE', 'cache', `a batch of ${batch} as x has`, `${cache.batch}`)
  return cache
}

// The Mamba-2 layer (Dao and Gu, 2024), as the Hugging Face checkpoints `mamba2` and those of mamba_ssm hold it.
//
//   z, xBC, dt = in_proj(h)                   x, B, C = silu(conv1d(xBC))
//   y = ssd_chunk_scan(x, softplus(dt + dt_bias), −exp(A_log), B, C) + D·x
//   out = out_proj(norm(y · silu(z)))
//
// One projection gives everything, and the parts of it are views of its rows, as x, B and C are of the convolution's: the ops
// take strides, and nothing is copied.
//
// The layer computes in the dtype of its input; its weights keep the dtypes they came in. Sums and the states of the scan
// are float32, and so is A, whatever A_log was stored in.

import { floatOption, type FloatDType } from '../dtype.js'
import { rangeError, shown, typeError } from '../errors.js'
import type { Device } from '../index.js'
import {
  causalConv1dUpdate,
  linear,
  rmsNorm,
  scope,
  selectiveStateUpdate,
  ssdChunkScan,
  type Tensor,
} from '../index.js'
import { checkOptions, flag, number } from '../options.js'
import { Mamba2Cache } from './mamba2-cache.js'
import { checkActivation, convolve, expectCache, expectContext, negativeExp } from './ssm.js'
import { expectObject, layerDevice, sizeIn, Weights, type StateDict } from './state.js'

/** A Mamba-2 layer's part of config.json, under the names it has there. */
export interface Mamba2Config {
  /** width of the layer's input and output */
  readonly hidden_size: number
  /** d, the channels of the scan (expand · hidden_size) */
  readonly intermediate_size?: number
  /** d over hidden_size, where intermediate_size is not given (2) */
  readonly expand?: number
  /** p, channels of a head (64) */
  readonly head_dim?: number
  /** h = d / p, where it is said too */
  readonly num_heads?: number
  /** g, the groups of heads that share B and C (1) */
  readonly n_groups?: number
  /** n, states a channel (128) */
  readonly state_size?: number
  /** w, taps of the convolution (4) */
  readonly conv_kernel?: number
  /** whether in_proj and out_proj have a bias (false) */
  readonly use_bias?: boolean
  /** whether the convolution has a bias (true) */
  readonly use_conv_bias?: boolean
  /** 'silu', the only one supported */
  readonly hidden_act?: string
  /** the lowest and the highest step Δ, to which it is clamped after its softplus ([0, Infinity]) */
  readonly time_step_limit?: readonly [number, number]
  /** whether y is normed after its gate (true); else the gate is all */
  readonly rms_norm?: boolean
  /** what that norm adds to the mean of squares (1e-5) */
  readonly layer_norm_epsilon?: number
  /** channels that it norms together (d; mamba_ssm has d / g) */
  readonly norm_group_size?: number
  /** norm before the gate and not after it (false) */
  readonly norm_before_gate?: boolean
  /** whether D has a number for each channel (false: for each head) */
  readonly D_has_hdim?: boolean
}

/** A layer's sizes, with every default filled in. */
export interface Mamba2Sizes {
  readonly hidden: number
  /** d = heads · headDim */
  readonly channels: number
  readonly heads: number
  readonly headDim: number
  readonly groups: number
  readonly states: number
  readonly width: number
  /** channels of the convolution: x, B and C */
  readonly convolved: number
}

/** The sizes a config stands for. Throws ERR_OPTION where they do not fit together. */
export function mamba2Sizes(config: Mamba2Config): Mamba2Sizes {
  expectObject(config, 'config')
  const hidden = sizeIn(config.hidden_size, 'hidden_size')
  const expanded = (): number => Math.trunc(number(config.expand, 'expand', 2) * hidden)
  const channels = sizeIn(config.intermediate_size ?? expanded(), 'intermediate_size')
  const headDim = sizeIn(config.head_dim ?? 64, 'head_dim')
  const heads = sizeIn(config.num_heads ?? channels / headDim, 'num_heads')
  const groups = sizeIn(config.n_groups ?? 1, 'n_groups')
  const states = sizeIn(config.state_size ?? 128, 'state_size')
  if (heads * headDim !== channels) {
    throw rangeError('ERR_OPTION', 'num_heads', `${channels} channels over head_dim ${headDim}`, `${heads}`)
  }
  if (heads % groups !== 0) throw rangeError('ERR_OPTION', 'n_groups', `a divisor of ${heads} heads`, `${groups}`)
  const width = sizeIn(config.conv_kernel ?? 4, 'conv_kernel')
  return { hidden, channels, heads, headDim, groups, states, width, convolved: channels + 2 * groups * states }
}

/** The names and stored shapes of a layer's tensors. */
export function mamba2Shapes(config: Mamba2Config): Record<string, readonly number[]> {
  const { hidden, channels, heads, width, convolved } = mamba2Sizes(config)
  const projected = channels + convolved + heads
  return {
    'in_proj.weight': [projected, hidden],
    ...(config.use_bias ? { 'in_proj.bias': [projected], 'out_proj.bias': [hidden] } : {}),
    'conv1d.weight': [convolved, 1, width],
    ...((config.use_conv_bias ?? true) ? { 'conv1d.bias': [convolved] } : {}),
    dt_bias: [heads],
    A_log: [heads],
    D: [config.D_has_hdim ? channels : heads],
    ...((config.rms_norm ?? true) ? { 'norm.weight': [channels] } : {}),
    'out_proj.weight': [hidden, channels],
  }
}

// How y becomes what out_proj takes.
interface GatedNorm {
  readonly weight: Tensor
  readonly options: { readonly eps: number; readonly groupSize: number; readonly normBeforeGate: boolean }
}

export class Mamba2 {
  readonly config: Mamba2Config
  readonly sizes: Mamba2Sizes
  readonly device: Device
  private readonly weights: Weights
  private readonly inProj: Tensor
  private readonly inBias: Tensor | undefined
  private readonly convWeight: Tensor
  private readonly convBias: Tensor | undefined
  private readonly dtBias: Tensor
  private readonly dtLimit: readonly [number, number] | undefined
  private readonly A: Tensor
  private readonly D: Tensor
  private readonly norm: GatedNorm | undefined
  private readonly outProj: Tensor
  private readonly outBias: Tensor | undefined

  /**
   * @param config as in config.json; see {@link Mamba2Config}
   * @param state tensors under the checkpoint's names: `in_proj.weight` (2d + 2gn + h, hidden), `conv1d.weight` (d + 2gn, 1, w),
   *   `conv1d.bias` (d + 2gn), `dt_bias` (h), `A_log` (h), `D` (h), `norm.weight` (d), `out_proj.weight` (hidden, d); with
   *   use_bias also `in_proj.bias` (2d + 2gn + h) and `out_proj.bias` (hidden). Each float32, float16 or bfloat16, and kept as
   *   it is. The layer takes handles of its own; those passed stay the caller's.
   * @param options.device where to compute; by default where the state's first Tensor is
   * @throws SeqmixError ERR_CHECKPOINT for a tensor that is missing or has another shape; ERR_UNSUPPORTED for an
   *   activation other than silu or weights of integers
   */
  constructor(config: Mamba2Config, state: StateDict, options: { device?: Device | string } = {}) {
    this.sizes = mamba2Sizes(config)
    checkActivation(config.hidden_act)
    this.config = config
    this.device = layerDevice(state, options)
    const { channels, heads, headDim, width, convolved } = this.sizes
    const eps = number(config.layer_norm_epsilon, 'layer_norm_epsilon', 1e-5)
    const groupSize = sizeIn(config.norm_group_size ?? channels, 'norm_group_size')
    if (channels % groupSize !== 0)
      throw rangeError('ERR_OPTION', 'norm_group_size', `a divisor of ${channels} channels`, `${groupSize}`)
    const normBeforeGate = flag(config.norm_before_gate, 'norm_before_gate')
    this.dtLimit = stepLimit(config.time_step_limit)
    const shapes = mamba2Shapes(config)
    const w = (this.weights = new Weights('Mamba2', state, this.device))
    const take = (name: string) => w.take(name, shapes[name]!)
    const takeIfAny = (name: string) => (shapes[name] ? take(name) : undefined)
    try {
      this.inProj = take('in_proj.weight')
      this.inBias = takeIfAny('in_proj.bias')
      this.convWeight = w.take('conv1d.weight', [convolved, width], shapes['conv1d.weight'])
      this.convBias = takeIfAny('conv1d.bias')
      this.dtBias = take('dt_bias')
      this.A = w.own(negativeExp(w.values('A_log', shapes.A_log!), shapes.A_log!, this.device))
      this.D = config.D_has_hdim ? w.take('D', [heads, headDim], [channels]) : take('D')
      const weight = takeIfAny('norm.weight')
      this.norm = weight && { weight, options: { eps, groupSize, normBeforeGate } }
      this.outProj = take('out_proj.weight')
      this.outBias = takeIfAny('out_proj.bias')
    } catch (error) {
      w.dispose()
      throw error
    }
  }

  /** Number of weights. */
  get parameters(): number {
    return this.tensors().reduce((n, t) => n + t.size, 0)
  }

  /**
   * A cache for a batch that has seen nothing.
   *
   * @param batch number of sequences
   * @param options.dtype what the states of the scan are held in (float32). In 16 bits they take half the memory and time to
   *   move, and are rounded at every token.
   */
  newCache(batch = 1, options: { dtype?: FloatDType } = {}): Mamba2Cache {
    sizeIn(batch, 'batch')
    checkOptions(options, ['dtype'])
    return Mamba2Cache.create(batch, this.sizes, this.device, floatOption(options.dtype))
  }

  /**
   * The layer over a whole sequence or a piece of one.
   *
   * @param x (b, L, hidden), float32, float16 or bfloat16
   * @param cache the context before x, changed into the context after it; without one, x begins a sequence
   * @param options.residual (b, L, hidden) of x's dtype, added to the result in the same pass
   * @returns (b, L, hidden) of x's dtype
   */
  forward(x: Tensor, cache?: Mamba2Cache, options: { residual?: Tensor } = {}): Tensor {
    expectContext(x, 3, cache === undefined ? cache : expectCache(cache, Mamba2Cache), options)
    return scope(() => {
      const { z, xBC, dt } = this.project(x)
      const mixed = convolve(xBC.transpose(1, 2), this.convWeight, this.convBias, cache).transpose(1, 2)
      const y = this.scan(mixed, dt, z, cache)
      return this.finish(y, z, options.residual)
    })
  }

  /**
   * The layer over one more token of each sequence: what {@link forward} gives for L = 1, for less.
   *
   * @param x (b, hidden), float32, float16 or bfloat16
   * @param cache the context, changed in place
   * @param options.residual (b, hidden) of x's dtype, added to the result in the same pass
   * @returns (b, hidden) of x's dtype
   */
  step(x: Tensor, cache: Mamba2Cache, options: { residual?: Tensor } = {}): Tensor {
    expectContext(x, 2, expectCache(cache, Mamba2Cache), options)
    return scope(() => {
      const { z, xBC, dt } = this.project(x)
      const conv = { bias: this.convBias, activation: 'silu' } as const
      const mixed = causalConv1dUpdate(xBC, cache.convState, this.convWeight, conv)
      const y = this.update(mixed, dt, z, cache)
      return this.finish(y, z, options.residual)
    })
  }

  /** Its weights: a scope that returns the layer leaves them alone. */
  tensors(): readonly Tensor[] {
    return this.weights.tensors()
  }

  /** Frees the layer's weights; a second call does nothing. */
  dispose(): void {
    this.weights.dispose()
  }

  // (…, hidden) → z (…, d), xBC (…, d + 2gn) and dt (…, h), views of one product's rows
  private project(x: Tensor): { z: Tensor; xBC: Tensor; dt: Tensor } {
    const { channels, convolved, heads } = this.sizes
    const projected = linear(x, this.inProj, { bias: this.inBias })
    const part = (from: number, length: number) => projected.narrow(x.shape.length - 1, from, length)
    return { z: part(0, channels), xBC: part(channels, convolved), dt: part(channels + convolved, heads) }
  }

  // (…, d + 2gn) → x (…, h, p), B and C (…, g, n), views again
  private split(mixed: Tensor): { x: Tensor; B: Tensor; C: Tensor } {
    const { channels, heads, headDim, groups, states } = this.sizes
    const rows = mixed.shape.slice(0, -1)
    const part = (from: number, ...shape: [number, number]) =>
      mixed.narrow(rows.length, from, shape[0] * shape[1]).reshape([...rows, ...shape])
    return {
      x: part(0, heads, headDim),
      B: part(channels, groups, states),
      C: part(channels + groups * states, groups, states),
    }
  }

  // Over a sequence: (b, L, d + 2gn) → (b, L, d). Without a norm the scan has the gate.
  private scan(mixed: Tensor, dt: Tensor, z: Tensor, cache: Mamba2Cache | undefined): Tensor {
    const { x, B, C } = this.split(mixed)
    const options = {
      D: this.D,
      z: this.norm ? undefined : z.reshape([...x.shape]),
      dtBias: this.dtBias,
      dtSoftplus: true,
      ...(this.dtLimit ? { dtLimit: this.dtLimit } : {}),
    }
    if (!cache) return ssdChunkScan(x, dt, this.A, B, C, options).reshape([...z.shape])
    const { out, finalStates } = ssdChunkScan(x, dt, this.A, B, C, {
      ...options,
      initialStates: cache.ssmState,
      returnFinalStates: true,
    })
    cache.keepState(finalStates)
    return out.reshape([...z.shape])
  }

  // Over one token: (b, d + 2gn) → (b, d).
  private update(mixed: Tensor, dt: Tensor, z: Tensor, cache: Mamba2Cache): Tensor {
    // The update clamps no steps. Where they are to be clamped a token is a sequence of one.
    if (this.dtLimit) {
      const along = (t: Tensor) => t.reshape([t.shape[0]!, 1, t.shape[1]!])
      return this.scan(along(mixed), along(dt), along(z), cache).reshape([...z.shape])
    }
    const { x, B, C } = this.split(mixed)
    const y = selectiveStateUpdate(cache.ssmState, x, dt, this.A, B, C, {
      D: this.D,
      z: this.norm ? undefined : z.reshape([...x.shape]),
      dtBias: this.dtBias,
      dtSoftplus: true,
    })
    return y.reshape([...z.shape])
  }

  private finish(y: Tensor, z: Tensor, residual: Tensor | undefined): Tensor {
    const normed = this.norm ? rmsNorm(y, this.norm.weight, { ...this.norm.options, z }) : y
    return linear(normed, this.outProj, { bias: this.outBias, residual })
  }
}

// Undefined where it changes nothing: a softplus is never below 0.
function stepLimit(limit: unknown = [0, Infinity]): readonly [number, number] | undefined {
  const [low, high]: unknown[] = Array.isArray(limit) && limit.length === 2 ? [limit[0], limit[1]] : []
  if (typeof low !== 'number' || typeof high !== 'number')
    throw typeError('ERR_OPTION', 'time_step_limit', 'two numbers, the lower first', shown(limit))
  if (!(low <= high)) throw rangeError('ERR_OPTION', 'time_step_limit', 'the lower number first', `${low} and ${high}`)
  return low <= 0 && high === Infinity ? undefined : [low, high]
}

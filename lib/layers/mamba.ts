// The Mamba layer (Gu and Dao, 2023), as the Hugging Face checkpoints `mamba` and `falcon_mamba` hold it.
//
//   x, z = in_proj(h)                     u = silu(conv1d(x))
//   δ, B, C = x_proj(u)                   Δ = softplus(dt_proj(δ))
//   y = selective_scan(u, Δ, −exp(A_log), B, C) + D·u
//   out = out_proj(y · silu(z))
//
// Everything between the projections works on views of what a projection wrote, (b, L, …) in memory: the ops take
// them as (b, d, L) with channels next to each other, and nothing is copied.
//
// The layer computes in the dtype of its input; its weights keep the dtypes they came in. Sums and the states of the scan
// are float32, and so is A, whatever A_log was stored in.

import { floatOption, type FloatDType } from '../dtype.js'
import type { Device } from '../index.js'
import {
  causalConv1dUpdate,
  linear,
  rmsNorm,
  scope,
  selectiveScan,
  selectiveStateUpdate,
  type Tensor,
} from '../index.js'
import { checkOptions, number } from '../options.js'
import { MambaCache } from './mamba-cache.js'
import { checkActivation, convolve, expectCache, expectContext, negativeExp } from './ssm.js'
import { expectObject, layerDevice, sizeIn, Weights, type StateDict } from './state.js'

/** A Mamba layer's part of config.json, under the names it has there. */
export interface MambaConfig {
  /** width of the layer's input and output */
  readonly hidden_size: number
  /** d, the channels of the scan (expand · hidden_size) */
  readonly intermediate_size?: number
  /** d over hidden_size, where intermediate_size is not given (2) */
  readonly expand?: number
  /** n, states a channel (16) */
  readonly state_size?: number
  /** w, taps of the convolution (4) */
  readonly conv_kernel?: number
  /** rank of δ ('auto': hidden_size / 16, rounded up) */
  readonly time_step_rank?: number | 'auto'
  /** whether in_proj and out_proj have a bias (false) */
  readonly use_bias?: boolean
  /** whether the convolution has a bias (true) */
  readonly use_conv_bias?: boolean
  /** 'silu', the only one supported */
  readonly hidden_act?: string
  /** given: δ, B and C are RMS-normalised, without a weight, as Falcon Mamba has it */
  readonly mixer_rms_eps?: number
}

/** A layer's sizes, with every default filled in. */
export interface MambaSizes {
  readonly hidden: number
  readonly channels: number
  readonly states: number
  readonly width: number
  readonly rank: number
}

/** The sizes a config stands for. */
export function mambaSizes(config: MambaConfig): MambaSizes {
  expectObject(config, 'config')
  const hidden = sizeIn(config.hidden_size, 'hidden_size')
  const rank = config.time_step_rank ?? 'auto'
  const expanded = (): number => Math.trunc(number(config.expand, 'expand', 2) * hidden)
  return {
    hidden,
    channels: sizeIn(config.intermediate_size ?? expanded(), 'intermediate_size'),
    states: sizeIn(config.state_size ?? 16, 'state_size'),
    width: sizeIn(config.conv_kernel ?? 4, 'conv_kernel'),
    rank: rank === 'auto' ? Math.ceil(hidden / 16) : sizeIn(rank, 'time_step_rank'),
  }
}

/** The names and stored shapes of a layer's tensors. */
export function mambaShapes(config: MambaConfig): Record<string, readonly number[]> {
  const { hidden, channels, states, width, rank } = mambaSizes(config)
  return {
    'in_proj.weight': [2 * channels, hidden],
    ...(config.use_bias ? { 'in_proj.bias': [2 * channels], 'out_proj.bias': [hidden] } : {}),
    'conv1d.weight': [channels, 1, width],
    ...((config.use_conv_bias ?? true) ? { 'conv1d.bias': [channels] } : {}),
    'x_proj.weight': [rank + 2 * states, channels],
    'dt_proj.weight': [channels, rank],
    'dt_proj.bias': [channels],
    A_log: [channels, states],
    D: [channels],
    'out_proj.weight': [hidden, channels],
  }
}

export class Mamba {
  readonly config: MambaConfig
  readonly sizes: MambaSizes
  readonly device: Device
  private readonly weights: Weights
  private readonly inProj: Tensor
  private readonly inBias: Tensor | undefined
  private readonly convWeight: Tensor
  private readonly convBias: Tensor | undefined
  private readonly xProj: Tensor
  private readonly dtProj: Tensor
  private readonly dtBias: Tensor
  private readonly A: Tensor
  private readonly D: Tensor
  private readonly outProj: Tensor
  private readonly outBias: Tensor | undefined

  /**
   * @param config as in config.json; see {@link MambaConfig}
   * @param state tensors under the checkpoint's names: `in_proj.weight` (2d, hidden), `conv1d.weight` (d, 1, w),
   *   `conv1d.bias` (d), `x_proj.weight` (rank + 2n, d), `dt_proj.weight` (d, rank), `dt_proj.bias` (d), `A_log` (d, n),
   *   `D` (d), `out_proj.weight` (hidden, d); with use_bias also `in_proj.bias` (2d) and `out_proj.bias` (hidden). Each
   *   float32, float16 or bfloat16, and kept as it is.
   *   The layer takes handles of its own; those passed stay the caller's.
   * @param options.device where to compute; by default where the state's first Tensor is
   * @throws SeqmixError ERR_CHECKPOINT for a tensor that is missing or has another shape; ERR_UNSUPPORTED for an
   *   activation other than silu or weights of integers
   */
  constructor(config: MambaConfig, state: StateDict, options: { device?: Device | string } = {}) {
    this.sizes = mambaSizes(config)
    checkActivation(config.hidden_act)
    this.config = config
    this.device = layerDevice(state, options)
    const { channels, width } = this.sizes
    const shapes = mambaShapes(config)
    const w = (this.weights = new Weights('Mamba', state, this.device))
    const take = (name: string) => w.take(name, shapes[name]!)
    const takeIfAny = (name: string) => (shapes[name] ? take(name) : undefined)
    try {
      this.inProj = take('in_proj.weight')
      this.inBias = takeIfAny('in_proj.bias')
      this.convWeight = w.take('conv1d.weight', [channels, width], shapes['conv1d.weight'])
      this.convBias = takeIfAny('conv1d.bias')
      this.xProj = take('x_proj.weight')
      this.dtProj = take('dt_proj.weight')
      this.dtBias = take('dt_proj.bias')
      this.A = w.own(negativeExp(w.values('A_log', shapes.A_log!), shapes.A_log!, this.device))
      this.D = take('D')
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
   * @param options.dtype what the state of the scan is held in (float32). In 16 bits it takes half the memory and time to
   *   move, and is rounded at every token.
   */
  newCache(batch = 1, options: { dtype?: FloatDType } = {}): MambaCache {
    sizeIn(batch, 'batch')
    checkOptions(options, ['dtype'])
    return MambaCache.create(batch, this.sizes, this.device, floatOption(options.dtype))
  }

  /**
   * The layer over a whole sequence or a piece of one.
   *
   * @param x (b, L, hidden), float32, float16 or bfloat16
   * @param cache the context before x, changed into the context after it; without one, x begins a sequence
   * @param options.residual (b, L, hidden) of x's dtype, added to the result in the same pass
   * @returns (b, L, hidden) of x's dtype
   */
  forward(x: Tensor, cache?: MambaCache, options: { residual?: Tensor } = {}): Tensor {
    const { channels } = this.sizes
    expectContext(x, 3, cache === undefined ? cache : expectCache(cache, MambaCache), options)
    return scope(() => {
      const projected = linear(x, this.inProj, { bias: this.inBias })
      const input = projected.narrow(2, 0, channels).transpose(1, 2)
      const z = projected.narrow(2, channels, channels).transpose(1, 2)
      const u = convolve(input, this.convWeight, this.convBias, cache)
      const { dt, B, C } = this.selectAll(u)
      const y = this.scan(u, dt, B, C, z, cache)
      return linear(y.transpose(1, 2), this.outProj, { bias: this.outBias, residual: options.residual })
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
  step(x: Tensor, cache: MambaCache, options: { residual?: Tensor } = {}): Tensor {
    const { channels, rank, states } = this.sizes
    expectContext(x, 2, expectCache(cache, MambaCache), options)
    return scope(() => {
      const projected = linear(x, this.inProj, { bias: this.inBias })
      const input = projected.narrow(1, 0, channels)
      const z = projected.narrow(1, channels, channels)
      const u = causalConv1dUpdate(input, cache.convState, this.convWeight, { bias: this.convBias, activation: 'silu' })
      const selected = linear(u, this.xProj)
      const dt = linear(this.normalise(selected.narrow(1, 0, rank)), this.dtProj)
      const B = this.normalise(selected.narrow(1, rank, states))
      const C = this.normalise(selected.narrow(1, rank + states, states))
      const y = selectiveStateUpdate(cache.ssmState, u, dt, this.A, B, C, {
        D: this.D,
        z,
        dtBias: this.dtBias,
        dtSoftplus: true,
      })
      return linear(y, this.outProj, { bias: this.outBias, residual: options.residual })
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

  // u (b, d, L) → Δ before its bias (b, d, L), B and C (b, n, L), all of them views
  private selectAll(u: Tensor): { dt: Tensor; B: Tensor; C: Tensor } {
    const { rank, states } = this.sizes
    const selected = linear(u.transpose(1, 2), this.xProj)
    const dt = linear(this.normalise(selected.narrow(2, 0, rank)), this.dtProj)
    const B = this.normalise(selected.narrow(2, rank, states))
    const C = this.normalise(selected.narrow(2, rank + states, states))
    return { dt: dt.transpose(1, 2), B: B.transpose(1, 2), C: C.transpose(1, 2) }
  }

  private scan(u: Tensor, dt: Tensor, B: Tensor, C: Tensor, z: Tensor, cache: MambaCache | undefined): Tensor {
    const options = { D: this.D, z, deltaBias: this.dtBias, deltaSoftplus: true }
    if (!cache) return selectiveScan(u, dt, this.A, B, C, options)
    const { out, lastState } = selectiveScan(u, dt, this.A, B, C, {
      ...options,
      initialState: cache.ssmState,
      returnLastState: true,
    })
    cache.keepState(lastState)
    return out
  }

  private normalise(x: Tensor): Tensor {
    const eps = this.config.mixer_rms_eps
    return eps === undefined ? x : rmsNorm(x, null, { eps })
  }
}

// The layer between attentions: two projections with an activation between them, or three with one of them as a gate.
//
//   gated      out = down_proj(act(gate_proj(x)) · up_proj(x))      (Shazeer, GLU variants, 2020)
//   plain      out = down_proj(act(up_proj(x)))

import { SeqmixError, shown } from '../errors.js'
import { gelu, linear, mul, scope, silu, type Device, type Gate, type Tensor } from '../index.js'
import { checkOptions } from '../options.js'
import { expectObject, layerDevice, sizeIn, Weights, type StateDict } from './state.js'

/** An MLP's part of config.json, under the names it has there. */
export interface MLPConfig {
  readonly hidden_size: number
  /** width between the projections */
  readonly intermediate_size: number
  /** 'silu' (the default) or 'swish', 'gelu', 'gelu_pytorch_tanh' or 'gelu_new' */
  readonly hidden_act?: string
  /** whether the projections have a bias (false) */
  readonly mlp_bias?: boolean
  /** whether there is a gate_proj (true) */
  readonly gated?: boolean
}

const ACTIVATIONS: Readonly<Record<string, Exclude<Gate, null>>> = {
  silu: 'silu',
  swish: 'silu',
  gelu: 'gelu',
  gelu_pytorch_tanh: 'gelu_tanh',
  gelu_new: 'gelu_tanh',
}

/** An activation by the name that configs have for it. ERR_UNSUPPORTED for one that the layer does not have. */
export function mlpActivation(name: unknown = 'silu'): Exclude<Gate, null> {
  const known = typeof name === 'string' && Object.hasOwn(ACTIVATIONS, name) ? ACTIVATIONS[name] : undefined
  if (known) return known
  const names = Object.keys(ACTIVATIONS).join(', ')
  throw new SeqmixError('ERR_UNSUPPORTED', `hidden_act: expected one of ${names}, got ${shown(name)}`)
}

/** The names and shapes of a layer's tensors. */
export function mlpShapes(config: MLPConfig): Record<string, readonly number[]> {
  expectObject(config, 'config')
  const hidden = sizeIn(config.hidden_size, 'hidden_size')
  const width = sizeIn(config.intermediate_size, 'intermediate_size')
  const projections: Record<string, readonly [number, number]> = {
    ...((config.gated ?? true) ? { gate_proj: [width, hidden] as const } : {}),
    up_proj: [width, hidden],
    down_proj: [hidden, width],
  }
  const shapes: Record<string, readonly number[]> = {}
  for (const [name, shape] of Object.entries(projections)) {
    shapes[`${name}.weight`] = shape
    if (config.mlp_bias) shapes[`${name}.bias`] = [shape[0]]
  }
  return shapes
}

export class MLP {
  readonly config: MLPConfig
  readonly device: Device
  private readonly weights: Weights
  private readonly activation: Exclude<Gate, null>
  private readonly tensorOf: Readonly<Record<string, Tensor>>

  /**
   * @param config as in config.json; see {@link MLPConfig}
   * @param state tensors under the checkpoint's names: `gate_proj.weight` and `up_proj.weight` (intermediate, hidden),
   *   `down_proj.weight` (hidden, intermediate), with mlp_bias also their `.bias`; no gate_proj where `gated` is false
   * @param options.device where to compute; by default where the state's first Tensor is
   * @throws SeqmixError ERR_CHECKPOINT for a tensor that is missing or has another shape; ERR_UNSUPPORTED for an activation that
   *   it does not have, or weights of integers
   */
  constructor(config: MLPConfig, state: StateDict, options: { device?: Device | string } = {}) {
    const shapes = mlpShapes(config)
    this.activation = mlpActivation(config.hidden_act)
    this.config = config
    this.device = layerDevice(state, options)
    const w = (this.weights = new Weights('MLP', state, this.device))
    this.tensorOf = w.takeAll(shapes)
  }

  /**
   * @param x (…, hidden), float32, float16 or bfloat16
   * @param options.residual in x's shape and dtype, added to the result in the same pass
   * @returns a new tensor of x's shape and dtype
   */
  forward(x: Tensor, options: { residual?: Tensor | undefined } = {}): Tensor {
    checkOptions(options, ['residual'])
    return scope(() => {
      const up = this.project(x, 'up_proj')
      const inner =
        (this.config.gated ?? true)
          ? mul(this.project(x, 'gate_proj'), up, { activation: this.activation })
          : this.activation === 'silu'
            ? silu(up)
            : gelu(up, { approximate: this.activation === 'gelu' ? 'none' : 'tanh' })
      return this.project(inner, 'down_proj', options.residual)
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

  private project(x: Tensor, name: string, residual?: Tensor): Tensor {
    return linear(x, this.tensorOf[`${name}.weight`]!, { bias: this.tensorOf[`${name}.bias`], residual })
  }
}

import type { Device } from '../index.js'
import { rmsNorm } from '../index.js'
import type { Tensor } from '../index.js'
import { checkOptions, number } from '../options.js'
import { expectObject, layerDevice, sizeIn, Weights, type StateDict } from './state.js'

export interface RMSNormConfig {
  /** length of the last dimension */
  readonly hidden_size: number
  /** what is added to the mean of squares (1e-5) */
  readonly layer_norm_epsilon?: number
}

/** Root-mean-square normalisation over the last dimension, times a learned weight (Zhang and Sennrich, 2019). */
export class RMSNorm {
  readonly device: Device
  readonly eps: number
  private readonly weights: Weights
  private readonly weight: Tensor

  /**
   * @param config see {@link RMSNormConfig}
   * @param state `weight` (hidden_size), of any floating-point dtype
   * @param options.device where to compute; by default where the state's first Tensor is
   */
  constructor(config: RMSNormConfig, state: StateDict, options: { device?: Device | string } = {}) {
    expectObject(config, 'config')
    const size = sizeIn(config.hidden_size, 'hidden_size')
    this.device = layerDevice(state, options)
    this.eps = number(config.layer_norm_epsilon, 'layer_norm_epsilon', 1e-5)
    this.weights = new Weights('RMSNorm', state, this.device)
    this.weight = this.weights.take('weight', [size])
  }

  /**
   * @param x (…, hidden_size), of any floating-point dtype, whatever the weight's
   * @returns a new tensor of x's shape and dtype
   */
  forward(x: Tensor, options?: { residual?: undefined }): Tensor
  /**
   * The norm of x + residual, in one pass.
   *
   * @param options.residual in x's shape; of its dtype, or float32
   * @param options.residualInFp32 keep the sum in float32 where both have 16 bits (false)
   * @returns out, in x's dtype, and the new residual, which is the sum
   */
  forward(
    x: Tensor,
    options: { residual: Tensor; residualInFp32?: boolean | undefined },
  ): { out: Tensor; residual: Tensor }
  forward(
    x: Tensor,
    options: { residual?: Tensor | undefined; residualInFp32?: boolean | undefined } = {},
  ): Tensor | { out: Tensor; residual: Tensor } {
    checkOptions(options, ['residual', 'residualInFp32'])
    const { residual, residualInFp32 = false } = options
    return rmsNorm(x, this.weight, { eps: this.eps, residual, residualInFp32 })
  }

  /** Its weights: a scope that returns the layer leaves them alone. */
  tensors(): readonly Tensor[] {
    return this.weights.tensors()
  }

  /** Frees the weight; a second call does nothing. */
  dispose(): void {
    this.weights.dispose()
  }
}

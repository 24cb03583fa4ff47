import type { Device } from '../index.js'
import { rmsNorm } from '../index.js'
import type { Tensor } from '../index.js'
import { number } from '../options.js'
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
   * @param state `weight` (hidden_size), float32
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
   * @param x (…, hidden_size) float32
   * @returns a new tensor of x's shape
   */
  forward(x: Tensor): Tensor {
    return rmsNorm(x, this.weight, { eps: this.eps })
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

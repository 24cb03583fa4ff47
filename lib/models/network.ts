// What a model is made of, seen from generation: a body from token ids to hidden states, a head from those to logits.
// One file for each family of architectures implements it and says which tensors it wants.

import type { KVCacheOptions, LayerCache } from '../layers/index.js'
import { checkKVOptions, kvOptionNames } from '../layers/kv/index.js'
import type { StateDict } from '../layers/index.js'
import type { Device, FloatDType, Tensor } from '../index.js'
import { floatOption } from '../dtype.js'
import { checkOptions } from '../options.js'
import type { ConfigFile } from './config.js'

/**
 * What a model's layers remember their context in: layers of attention as `kind` and what belongs to it say, all of them in
 * `dtype`.
 */
export type CacheOptions = KVCacheOptions

/** A network on a device. */
export interface Network {
  readonly device: Device
  /** what it computes in: the dtype of hidden states and logits */
  readonly dtype: FloatDType
  readonly vocabulary: number
  /** number of weights; tied ones count once */
  readonly parameters: number
  /** bytes of device memory its weights take */
  readonly bytes: number
  /**
   * Hidden states, as the head takes them.
   *
   * @param ids (b, L) int32 or int64
   * @param caches one for each layer that has one, changed in place
   * @returns (b, L, hidden)
   */
  body(ids: Tensor, caches?: readonly LayerCache[]): Tensor
  /**
   * The same for one more token of each sequence.
   *
   * @param ids (b)
   * @returns (b, hidden)
   */
  step(ids: Tensor, caches: readonly LayerCache[]): Tensor
  /** (…, hidden) → logits (…, vocabulary) */
  head(hidden: Tensor): Tensor
  newCaches(batch: number, options: CacheOptions): LayerCache[]
  /** its weights: a scope that returns the network leaves them alone */
  tensors(): Tensor[]
  dispose(): void
}

/** A tensor that an architecture wants from a checkpoint. */
export interface WantedTensor {
  readonly shape: readonly number[]
  /** another name it may have */
  readonly alias?: string
  /** its values, widened to float32, stay on the host while the network is built */
  readonly host?: boolean
  /** a checkpoint may hold it, and it is not read */
  readonly unused?: boolean
}

/** How a `model_type` becomes a network. */
export interface Architecture {
  /** @throws SeqmixError ERR_CHECKPOINT for a config.json that makes no sense */
  wanted(config: ConfigFile): Record<string, WantedTensor>
  /**
   * @param state every wanted tensor, in the dtype in which it shall be held; the network takes handles of its own
   * @param dtype what it shall compute in
   */
  build(config: ConfigFile, state: StateDict, device: Device, dtype: FloatDType): Network
}

/** Throws for options that no cache has. */
export function checkCacheOptions(options: CacheOptions): void {
  checkOptions(options, kvOptionNames)
  floatOption(options.dtype)
  checkKVOptions(options)
}

import type { Tensor } from '../../index.js'
import { ContiguousCache, type Parts } from './contiguous.js'
import type { KVShape } from './kv-cache.js'

/**
 * A contiguous cache in int8: an element takes a byte, and each key and value of each head a scale of four, max|x| / 127. An
 * element is held to within max|x| / 254 of its key or value; kernels multiply by the scales as they read. New keys are
 * rotated before they are rounded.
 */
export class QuantisedCache extends ContiguousCache {
  override readonly kind = 'kv-int8'

  /** @internal */
  override parts(): Parts {
    const { heads, keyDim, valueDim } = this.shape
    return {
      k: { shape: [heads, keyDim], dtype: 'int8' },
      v: { shape: [heads, valueDim], dtype: 'int8' },
      k_scale: { shape: [heads], dtype: 'float32' },
      v_scale: { shape: [heads], dtype: 'float32' },
    }
  }

  protected override sibling(shape: KVShape, capacity: number, length: number): QuantisedCache {
    return new QuantisedCache(shape, capacity, length)
  }

  protected override scales(): { kScale: Tensor; vScale: Tensor } {
    return { kScale: this.buffers.k_scale!, vScale: this.buffers.v_scale! }
  }
}

import type { StoredTensor } from '../checkpoint/index.js'
import { device as findDevice, scope, type Device, type FloatDType } from '../index.js'
import { newStates, placeStates, readStates, RecurrentCache } from './recurrent-cache.js'

/**
 * What a Mamba-2 layer remembers of the sequences of a batch: the last inputs of its convolution, (b, d + 2gn, w−1), and the
 * states of its scan, (b, h, p, n). Its size does not grow with the context.
 */
export class Mamba2Cache extends RecurrentCache {
  readonly kind = 'mamba2'

  /**
   * A cache that has seen nothing.
   *
   * @param batch number of sequences b
   * @param sizes h heads of p channels, n states a channel; channels and width w of the convolution
   * @param dtype of the scan's states. The convolution's is float32, which holds every dtype's values exactly.
   */
  static create(
    batch: number,
    sizes: { heads: number; headDim: number; states: number; convolved: number; width: number },
    device: Device,
    dtype: FloatDType = 'float32',
  ): Mamba2Cache {
    const { heads, headDim, states, convolved, width } = sizes
    // In a scope, so that where there is memory for one state and not for the other, neither stays.
    return scope(
      () => new Mamba2Cache(newStates([batch, convolved, width - 1], [batch, heads, headDim, states], device, dtype)),
    )
  }

  /**
   * A cache as {@link save} left it.
   *
   * @param bytes what save() returned
   * @param device where the cache goes; by default the best device
   * @throws SeqmixError ERR_CHECKPOINT where the bytes are damaged or of something else
   */
  static restore(bytes: Uint8Array, device?: Device | string): Mamba2Cache {
    return Mamba2Cache.fromStored(readStates(bytes, 'mamba2'), findDevice(device))
  }

  /** @internal */
  static fromStored(stored: Readonly<Record<string, StoredTensor>>, device: Device): Mamba2Cache {
    // d + 2gn channels are convolved, of which the scan's are the first d = hp
    const fit = (conv: readonly number[], [, h, p, n]: readonly number[]) => (conv[1]! - h! * p!) % (2 * n!) === 0
    return scope(() => new Mamba2Cache(placeStates(stored, 4, fit, device)))
  }
}

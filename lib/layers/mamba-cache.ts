import type { StoredTensor } from '../checkpoint/index.js'
import { device as findDevice, scope, type Device, type FloatDType } from '../index.js'
import { newStates, placeStates, readStates, RecurrentCache } from './recurrent-cache.js'

/**
 * What a Mamba layer remembers of the sequences of a batch: the last inputs of its convolution, (b, d, w−1), and the state of
 * its scan, (b, d, n). Its size does not grow with the context.
 */
export class MambaCache extends RecurrentCache {
  readonly kind = 'mamba'

  /**
   * A cache that has seen nothing.
   *
   * @param batch number of sequences b
   * @param sizes d channels, convolution width w, n states a channel
   * @param dtype of the scan's state. The convolution's is float32, which holds every dtype's values exactly.
   */
  static create(
    batch: number,
    sizes: { channels: number; width: number; states: number },
    device: Device,
    dtype: FloatDType = 'float32',
  ): MambaCache {
    const { channels, width, states } = sizes
    // In a scope, so that where there is memory for one state and not for the other, neither stays.
    return scope(
      () => new MambaCache(newStates([batch, channels, width - 1], [batch, channels, states], device, dtype)),
    )
  }

  /**
   * A cache as {@link save} left it.
   *
   * @param bytes what save() returned
   * @param device where the cache goes; by default the best device
   * @throws SeqmixError ERR_CHECKPOINT where the bytes are damaged or of something else
   */
  static restore(bytes: Uint8Array, device?: Device | string): MambaCache {
    return MambaCache.fromStored(readStates(bytes, 'mamba'), findDevice(device))
  }

  /** @internal */
  static fromStored(stored: Readonly<Record<string, StoredTensor>>, device: Device): MambaCache {
    return scope(() => new MambaCache(placeStates(stored, 3, (conv, ssm) => conv[1] === ssm[1], device)))
  }
}

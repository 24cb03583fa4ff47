import { damaged } from '../checkpoint/format.js'
import type { StoredTensor } from '../checkpoint/index.js'
import { device as findDevice, type Device } from '../index.js'
import { scope, tensor, zeros, type FloatDType, type Tensor } from '../index.js'
import { isFloat } from '../dtype.js'
import { readTensors, saveTensors, type LayerCache } from './cache.js'
import { bytesIn } from './state.js'

/**
 * What a Mamba layer remembers of the sequences of a batch: the last inputs of its convolution and the state of its
 * scan. Its size does not grow with the context.
 */
export class MambaCache implements LayerCache {
  readonly kind = 'mamba'

  /** @internal */
  constructor(
    /** (b, d, w−1) float32: the convolution's last inputs, oldest first */
    readonly convState: Tensor,
    /** (b, d, n) float32, or the 16 bits that were asked for: the state of the scan */
    readonly ssmState: Tensor,
  ) {}

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
    // In a scope, so that where there is memory for one state and not for the other, neither stays.
    return scope(() => {
      const convState = zeros([batch, sizes.channels, sizes.width - 1], { device })
      return new MambaCache(convState, zeros([batch, sizes.channels, sizes.states], { device, dtype }))
    })
  }

  /**
   * A cache as {@link save} left it.
   *
   * @param bytes what save() returned
   * @param device where the cache goes; by default the best device
   * @throws SeqmixError ERR_CHECKPOINT where the bytes are damaged or of something else
   */
  static restore(bytes: Uint8Array, device?: Device | string): MambaCache {
    const { tensors, note } = readTensors(bytes)
    if (note.kind !== 'mamba')
      throw damaged('cache', `expected the cache of a mamba layer, got ${note.kind ?? 'nothing'}`)
    return MambaCache.fromStored(tensors, findDevice(device))
  }

  /** @internal */
  static fromStored(stored: Readonly<Record<string, StoredTensor>>, device: Device): MambaCache {
    const { conv_state: conv, ssm_state: ssm } = stored
    for (const [name, t] of Object.entries({ conv_state: conv, ssm_state: ssm })) {
      if (!isFloat(t?.dtype) || t?.shape.length !== 3) {
        const got = t ? `${t.dtype} (${t.shape.join(', ')})` : 'nothing'
        throw damaged('cache', `${name}: expected a tensor of floats of three dimensions, got ${got}`)
      }
    }
    if (conv!.shape[0] !== ssm!.shape[0] || conv!.shape[1] !== ssm!.shape[1]) {
      throw damaged(
        'cache',
        `conv_state (${conv!.shape.join(', ')}) and ssm_state (${ssm!.shape.join(', ')}) are not of one layer`,
      )
    }
    const place = (t: StoredTensor) => tensor(t.data, { shape: [...t.shape], dtype: t.dtype, device })
    return new MambaCache(place(conv!), place(ssm!))
  }

  get batch(): number {
    return this.ssmState.shape[0]!
  }

  get bytes(): number {
    return bytesIn(this.tensors())
  }

  state(): Record<string, Tensor> {
    return { conv_state: this.convState, ssm_state: this.ssmState }
  }

  tensors(): Tensor[] {
    return [this.convState, this.ssmState]
  }

  /** An independent copy on the same device: a fork of the context. */
  clone(): MambaCache {
    return new MambaCache(this.convState.clone(), this.ssmState.clone())
  }

  /** The cache as the bytes of a safetensors file. */
  save(): Promise<Uint8Array> {
    return saveTensors(this.state(), { kind: this.kind })
  }

  /** @internal takes the convolution's last inputs */
  keepInputs(inputs: Tensor): void {
    assign(this.convState, inputs)
  }

  /** @internal takes the scan's state, rounded to what it is held in */
  keepState(state: Tensor): void {
    assign(this.ssmState, state)
  }

  /** Forgets the context. */
  reset(): void {
    for (const t of this.tensors()) {
      const nothing = zeros([...t.shape], { device: t.device, dtype: t.dtype })
      t.copyFrom(nothing)
      nothing.dispose()
    }
  }

  /** Frees its tensors; a second call does nothing. */
  dispose(): void {
    this.convState.dispose()
    this.ssmState.dispose()
  }
}

function assign(target: Tensor, source: Tensor): void {
  const same = source.to(target.dtype)
  target.copyFrom(same)
  same.dispose()
}

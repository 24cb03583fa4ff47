import { damaged } from '../checkpoint/format.js'
import type { StoredTensor } from '../checkpoint/index.js'
import { scope, tensor, zeros, type Device, type FloatDType, type Tensor } from '../index.js'
import { isFloat } from '../dtype.js'
import { readTensors, saveTensors, type LayerCache } from './cache.js'
import { bytesIn } from './state.js'

/** The two states of a {@link RecurrentCache}. */
export interface RecurrentStates {
  readonly convState: Tensor
  readonly ssmState: Tensor
}

/**
 * What a layer of a convolution and a recurrence remembers of the sequences of a batch: the last inputs of the one and the
 * state of the other. Its size does not grow with the context.
 */
export abstract class RecurrentCache implements LayerCache, RecurrentStates {
  abstract readonly kind: string
  /** (b, channels, w−1) float32: the convolution's last inputs, oldest first */
  readonly convState: Tensor
  /** (b, …), float32 or the 16 bits that were asked for: the state of the recurrence */
  readonly ssmState: Tensor

  /** @internal */
  constructor(states: RecurrentStates) {
    this.convState = states.convState
    this.ssmState = states.ssmState
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
  clone(): this {
    const Kind = this.constructor as new (states: RecurrentStates) => this
    return scope(() => new Kind({ convState: this.convState.clone(), ssmState: this.ssmState.clone() }))
  }

  /** The cache as the bytes of a safetensors file. */
  save(): Promise<Uint8Array> {
    return saveTensors(this.state(), { kind: this.kind })
  }

  /** @internal takes the convolution's last inputs */
  keepInputs(inputs: Tensor): void {
    assign(this.convState, inputs)
  }

  /** @internal takes the recurrence's state, rounded to what it is held in */
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

/**
 * States of sequences that have not begun.
 *
 * @param conv (b, channels, w−1), and @param ssm (b, …)
 * @param dtype of the recurrence's state. The convolution's is float32, which holds every dtype's values exactly.
 */
export function newStates(
  conv: readonly number[],
  ssm: readonly number[],
  device: Device,
  dtype: FloatDType,
): RecurrentStates {
  return { convState: zeros([...conv], { device }), ssmState: zeros([...ssm], { device, dtype }) }
}

/** The tensors in what a cache's save() returned, if it was one of this kind. */
export function readStates(bytes: Uint8Array, kind: string): Record<string, StoredTensor> {
  const { tensors, note } = readTensors(bytes)
  if (note.kind !== kind) throw damaged('cache', `expected the cache of a ${kind} layer, got ${note.kind ?? 'nothing'}`)
  return tensors
}

const NUMBERS = ['no', 'one', 'two', 'three', 'four']

/**
 * Stored states on a device again.
 *
 * @param rank of the recurrence's
 * @param fit whether both may belong to one layer
 * @throws SeqmixError ERR_CHECKPOINT
 */
export function placeStates(
  stored: Readonly<Record<string, StoredTensor>>,
  rank: number,
  fit: (conv: readonly number[], ssm: readonly number[]) => boolean,
  device: Device,
): RecurrentStates {
  const { conv_state: conv, ssm_state: ssm } = stored
  for (const [name, t, dimensions] of [['conv_state', conv, 3] as const, ['ssm_state', ssm, rank] as const]) {
    if (!isFloat(t?.dtype) || t?.shape.length !== dimensions) {
      const got = t ? `${t.dtype} (${t.shape.join(', ')})` : 'nothing'
      throw damaged('cache', `${name}: expected a tensor of floats of ${NUMBERS[dimensions]!} dimensions, got ${got}`)
    }
  }
  if (conv!.shape[0] !== ssm!.shape[0] || !fit(conv!.shape, ssm!.shape)) {
    throw damaged(
      'cache',
      `conv_state (${conv!.shape.join(', ')}) and ssm_state (${ssm!.shape.join(', ')}) are not of one layer`,
    )
  }
  const place = (t: StoredTensor) => tensor(t.data, { shape: [...t.shape], dtype: t.dtype, device })
  return { convState: place(conv!), ssmState: place(ssm!) }
}

function assign(target: Tensor, source: Tensor): void {
  const same = source.to(target.dtype)
  target.copyFrom(same)
  same.dispose()
}

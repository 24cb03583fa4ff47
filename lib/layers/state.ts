// Taking tensors out of a state dict: with the name and both shapes in the message when one is missing or wrong.

import { device, type Device } from '../index.js'
import { SeqmixError, rangeError, shown, typeError } from '../errors.js'
import { tensor, Tensor, type TensorInput } from '../index.js'
import { toFloat32 } from '../checkpoint/convert.js'
import { bytesOf, isFloat } from '../dtype.js'
import { checkOptions } from '../options.js'
import { checkedShape, sizeOf } from '../plain.js'

/** Throws ERR_OPTION for what has no fields to look up. */
export function expectObject(value: unknown, name: string): void {
  if (typeof value !== 'object' || value === null) throw typeError('ERR_OPTION', name, 'an object', shown(value))
}

/** A size in a config: a whole number from 1 on. Throws ERR_OPTION. */
export function sizeIn(value: unknown, name: string): number {
  if (typeof value !== 'number') throw typeError('ERR_OPTION', name, 'a whole number from 1 on', shown(value))
  if (!Number.isSafeInteger(value) || value < 1) {
    throw rangeError('ERR_OPTION', name, 'a whole number from 1 on', shown(value))
  }
  return value
}

/** A number above 0 in a config. Throws ERR_OPTION. */
export function positiveIn(value: unknown, name: string): number {
  if (typeof value !== 'number') throw typeError('ERR_OPTION', name, 'a number above 0', shown(value))
  if (!(value > 0) || !Number.isFinite(value)) throw rangeError('ERR_OPTION', name, 'a number above 0', shown(value))
  return value
}

/** Tensors (or plain inputs) under the names a checkpoint gives them. */
export type StateDict = Readonly<Record<string, TensorInput>>

/** Reads a layer's tensors from a state dict onto one device, and remembers them so that they can be freed. */
export class Weights {
  private readonly taken: Tensor[] = []

  constructor(
    private readonly layer: string,
    private readonly state: StateDict,
    readonly device: Device,
  ) {
    expectObject(state, 'state')
  }

  /**
   * The tensor of a name on the layer's device and in the dtype it has, under a handle of the layer's own: the caller's
   * stays the caller's.
   *
   * @param shape what it must have; a checkpoint may hold it with dimensions of 1 in between (conv1d.weight is (d, 1, w))
   * @param stored the shape in the state dict, where it is another than `shape`
   */
  take(name: string, shape: readonly number[], stored: readonly number[] = shape): Tensor {
    const value = this.lookUp(name)
    // What is not a tensor yet is made here and freed again once the layer has its own handle on it.
    const given = Tensor.isTensor(value) ? value : tensor(value, { device: this.device })
    let moved: Tensor | undefined
    try {
      if (!isFloat(given.dtype)) throw this.noFloat(name, given.dtype)
      this.checkShape(name, given.shape, stored)
      if (given.device.name !== this.device.name) moved = given.to(this.device)
      const own = (moved ?? given).reshape([...shape])
      this.taken.push(own)
      return own
    } finally {
      moved?.dispose()
      if (given !== value) given.dispose()
    }
  }

  /** Tensors by name, each of its shape; where one cannot be had, none stay. */
  takeAll(shapes: Readonly<Record<string, readonly number[]>>): Record<string, Tensor> {
    try {
      return Object.fromEntries(Object.entries(shapes).map(([name, shape]) => [name, this.take(name, shape)]))
    } catch (error) {
      this.dispose()
      throw error
    }
  }

  /** A tensor's values, widened to float32, in host memory. */
  values(name: string, shape: readonly number[]): Float32Array {
    const value = this.lookUp(name)
    // Values that are on the host already need no trip to the device and back.
    if (!Tensor.isTensor(value) && !(value instanceof Tensor)) {
      const { type, data, dims } = (value ?? {}) as { type?: unknown; data?: unknown; dims?: unknown }
      const held = data instanceof (type === 'float32' ? Float32Array : Uint16Array)
      if (held && isFloat(type) && Array.isArray(dims)) {
        this.checkShape(name, checkedShape(dims, `${name}.dims`), shape)
        if (data.length === sizeOf(shape)) return toFloat32(data, type)
      }
    }
    const t = Tensor.isTensor(value) ? value : tensor(value, { device: this.device })
    try {
      this.checkShape(name, t.shape, shape)
      if (!isFloat(t.dtype)) throw this.noFloat(name, t.dtype)
      return toFloat32(t.dataSync() as Float32Array | Uint16Array, t.dtype)
    } finally {
      if (t !== value) t.dispose()
    }
  }

  /** A tensor the layer derived from its weights, freed with them. */
  own(t: Tensor): Tensor {
    this.taken.push(t)
    return t
  }

  /** All of it. */
  tensors(): readonly Tensor[] {
    return this.taken
  }

  dispose(): void {
    for (const t of this.taken) t.dispose()
  }

  private lookUp(name: string): TensorInput {
    const value = this.state[name]
    if (value === undefined)
      throw new SeqmixError('ERR_CHECKPOINT', `${this.layer}: ${name}: missing in the state dict`)
    return value
  }

  private noFloat(name: string, dtype: string): SeqmixError {
    const message = `${this.layer}: ${name}: expected float32, float16 or bfloat16, got ${dtype}`
    return new SeqmixError('ERR_UNSUPPORTED', message)
  }

  private checkShape(name: string, got: readonly number[], expected: readonly number[]): void {
    if (got.length !== expected.length || got.some((n, i) => n !== expected[i])) {
      const message = `${this.layer}: ${name}: expected shape (${expected.join(', ')}), got (${got.join(', ')})`
      throw new SeqmixError('ERR_CHECKPOINT', message)
    }
  }
}

/** The device a layer is built on: the one that was asked for, else that of the first Tensor of its state, else the best. */
export function layerDevice(state: StateDict, options: { device?: Device | string }): Device {
  expectObject(state, 'state')
  checkOptions(options, ['device'])
  const wanted = options.device
  if (wanted !== undefined) return device(wanted)
  const first = Object.values(state).find(Tensor.isTensor)
  return first ? first.device : device()
}

/** The part of a state dict below a prefix, under the names that are left. */
export function below(state: StateDict, prefix: string): StateDict {
  const entries = Object.entries(state).filter(([name]) => name.startsWith(prefix))
  return Object.fromEntries(entries.map(([name, t]) => [name.slice(prefix.length), t]))
}

/** Throws for what is no input of a layer, or a residual that is not like it: before a cache changes. */
export function expectInput(x: unknown, rank: 2 | 3, residual: unknown): void {
  if (!Tensor.isTensor(x)) throw typeError('ERR_DTYPE', 'x', 'a Tensor', shown(x))
  const shape = (t: Tensor): string => `(${t.shape.join(', ')})`
  if (!isFloat(x.dtype)) throw typeError('ERR_DTYPE', 'x', 'float32, float16 or bfloat16', x.dtype)
  if (x.shape.length !== rank)
    throw rangeError('ERR_SHAPE', 'x', rank === 3 ? 'shape (b, L, hidden)' : 'shape (b, hidden)', shape(x))
  if (residual === undefined) return
  if (!Tensor.isTensor(residual) || shape(residual) !== shape(x)) {
    const got = Tensor.isTensor(residual) ? shape(residual) : shown(residual)
    throw rangeError('ERR_SHAPE', 'residual', `shape ${shape(x)} as x has`, got)
  }
  if (residual.dtype !== x.dtype) throw typeError('ERR_DTYPE', 'residual', `${x.dtype} as x has`, residual.dtype)
}

/** Bytes that tensors take, each counted once. */
export function bytesIn(tensors: readonly Tensor[]): number {
  return tensors.reduce((n, t) => n + t.size * bytesOf(t.dtype), 0)
}

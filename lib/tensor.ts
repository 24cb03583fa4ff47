import { constants } from 'node:buffer'
import { type Device, device as chooseDevice, deviceOf } from './device.js'
import { type DType, type TensorData, arrays, dtypeNumber, dtypes } from './dtype.js'
import { SeqmixError, rangeError, shown, typeError } from './errors.js'
import { type Handle, native } from './native.js'
import { checkOptions } from './options.js'
import { type Plain, type PlainInput, checkedShape, plainOf, sizeOf } from './plain.js'

/** What an op takes as a tensor. Plain inputs go to the device of the op's first Tensor argument, else to `device()`. */
export type TensorInput = Tensor | PlainInput

/** Where a new tensor goes, and what it holds. */
export interface TensorOptions {
  shape?: readonly number[]
  dtype?: DType
  device?: Device | string
}

const made = Symbol('made by seqmix')

/**
 * An array on a device. Ops return at once and the work follows in order; `await t.data()` waits for it. Memory is freed by
 * `dispose()`, at the end of a `scope`, or at last by the collector.
 */
export class Tensor {
  readonly #handle: Handle
  #described: ReturnType<typeof native.describe> | undefined

  /** @internal */
  constructor(key: symbol, handle: Handle) {
    if (key !== made) throw new TypeError('Tensor: expected to be made by tensor(), empty(), zeros() or an op, got new')
    this.#handle = handle
    scopes.at(-1)?.add(this)
  }

  /** @internal the addon's object of a live tensor (one that was disposed is told apart by the addon) */
  static handleOf(t: Tensor): Handle {
    return t.#handle
  }

  /** @internal */
  static isTensor(value: unknown): value is Tensor {
    return typeof value === 'object' && value !== null && #handle in value
  }

  get #facts() {
    if (this.#described) return this.#described
    const facts = native.describe(this.#handle)
    Object.freeze(facts[0]) // they are given out, and trusted
    Object.freeze(facts[1])
    return (this.#described = facts)
  }

  /** Its dimensions. */
  get shape(): readonly number[] {
    return this.#facts[0]
  }

  /** Steps between neighbours in each dimension, in elements. */
  get strides(): readonly number[] {
    return this.#facts[1]
  }

  get dtype(): DType {
    return dtypes[this.#facts[2]]!
  }

  get device(): Device {
    return deviceOf(this.#facts[3])
  }

  /** The number of elements. */
  get size(): number {
    return sizeOf(this.shape)
  }

  /** onnxruntime's name for `shape`. */
  get dims(): readonly number[] {
    return this.shape
  }

  /** onnxruntime's name for `dtype`. */
  get type(): DType {
    return this.dtype
  }

  /** onnxruntime's name for where it is: `cpu`, or `gpu-buffer`. */
  get location(): 'cpu' | 'gpu-buffer' {
    return this.device.type === 'cpu' ? 'cpu' : 'gpu-buffer'
  }

  /** Whether `dispose` was called. */
  get disposed(): boolean {
    return native.disposed(this.#handle)
  }

  /** The same elements under another shape: a view where the strides allow it, else a copy. One dimension may be -1. */
  reshape(...shape: readonly number[] | [readonly number[]]): Tensor {
    const listed = shape.length === 1 && Array.isArray(shape[0])
    const dims = inferred(listed ? (shape[0] as number[]) : (shape as number[]), this.size)
    const view = native.reshape(this.#handle, dims)
    if (view) return wrap(view)
    const copy = native.converted(this.#handle, this.#facts[2])
    const result = native.reshape(copy, dims)!
    native.dispose(copy)
    return wrap(result)
  }

  /** A view of `length` entries of dimension `dim` from `from` on. */
  narrow(dim: number, from: number, length: number): Tensor {
    const d = this.#dimension(dim)
    const n = this.shape[d]!
    if (!Number.isSafeInteger(from) || from < 0 || from > n) {
      throw rangeError('ERR_SHAPE', 'from', `a whole number from 0 to ${n}`, shown(from))
    }
    if (!Number.isSafeInteger(length) || length < 0 || from + length > n) {
      throw rangeError('ERR_SHAPE', 'length', `a whole number from 0 to ${n - from}`, shown(length))
    }
    return wrap(native.narrow(this.#handle, d, from, length))
  }

  /** A view with two dimensions exchanged. */
  transpose(a: number, b: number): Tensor {
    return wrap(native.transpose(this.#handle, this.#dimension(a), this.#dimension(b)))
  }

  #dimension(dim: unknown): number {
    const rank = this.shape.length
    if (typeof dim !== 'number' || !Number.isInteger(dim) || dim < -rank || dim >= rank) {
      throw rangeError('ERR_SHAPE', 'dim', `a whole number from ${-rank} to ${rank - 1}`, shown(dim))
    }
    return dim < 0 ? dim + rank : dim
  }

  /**
   * The tensor on another device, or in another dtype; shares memory when there is nothing to do. To float16 and bfloat16
   * values are rounded to nearest even; to integers they are cut, and saturate. To another device it waits for what is queued.
   */
  to(target: Device | DType | string): Tensor {
    if (typeof target === 'string' && (dtypes as readonly string[]).includes(target)) {
      const number = dtypeNumber(target)
      return wrap(number === this.#facts[2] ? this.#same() : native.converted(this.#handle, number))
    }
    if (target === undefined) throw typeError('ERR_OPTION', 'target', 'a device or a dtype', 'undefined')
    const to = chooseDevice(target)
    if (to.id === this.#facts[3]) return wrap(this.#same())
    const dense = native.contiguousView(this.#handle) ?? native.converted(this.#handle, this.#facts[2])
    try {
      return wrap(native.toDevice(dense, to.id))
    } finally {
      native.dispose(dense)
    }
  }

  /** The tensor in dense row-major memory: a view when it is already, else a copy. */
  contiguous(): Tensor {
    return wrap(native.contiguousView(this.#handle) ?? native.converted(this.#handle, this.#facts[2]))
  }

  /** A dense copy. */
  clone(): Tensor {
    return wrap(native.converted(this.#handle, this.#facts[2]))
  }

  /** Takes another tensor's elements, in place; of the same shape and dtype, on any device. */
  copyFrom(other: TensorInput): this {
    const source = Tensor.isTensor(other)
      ? other
      : tensor(other, { dtype: this.dtype, shape: this.shape, device: this.device })
    const here = source.#facts[3] === this.#facts[3] ? source : source.to(this.device)
    try {
      native.copyFrom(this.#handle, here.#handle)
    } finally {
      if (here !== source) here.dispose()
      if (source !== other) source.dispose()
    }
    return this
  }

  /** Another handle to the same memory. */
  #same(): Handle {
    return native.alias(this.#handle)
  }

  /**
   * The elements in row-major order, once they are there: a Float32Array, Uint16Array (the bits of both 16-bit floats),
   * Int32Array, BigInt64Array or Uint8Array. On the CPU it may share the tensor's memory without a copy; treat it as read-only.
   * It never changes under you, and outlives the tensor. Rejects with ERR_INDEX or ERR_CUDA when an op before it failed.
   */
  async data(): Promise<TensorData> {
    this.#expectReadable()
    const dense = native.contiguousView(this.#handle) ?? native.converted(this.#handle, this.#facts[2])
    try {
      return new arrays[this.dtype](await native.read(dense))
    } finally {
      native.dispose(dense)
    }
  }

  #expectReadable(): void {
    const bytes = this.size * arrays[this.dtype].BYTES_PER_ELEMENT
    if (bytes <= constants.MAX_LENGTH) return
    throw new SeqmixError(
      'ERR_UNSUPPORTED',
      `tensor: expected at most ${constants.MAX_LENGTH} bytes, the longest array of this version of Node, got ${bytes}; ` +
        'read it in parts with narrow()',
    )
  }

  /** `data` that blocks. */
  dataSync(): TensorData {
    this.#expectReadable()
    const dense = native.contiguousView(this.#handle) ?? native.converted(this.#handle, this.#facts[2])
    try {
      return new arrays[this.dtype](native.readSync(dense))
    } finally {
      native.dispose(dense)
    }
  }

  /** The elements as float32, once they are there. */
  async toFloat32(): Promise<Float32Array> {
    const copy = this.to('float32')
    try {
      return (await copy.data()) as Float32Array
    } finally {
      copy.dispose()
    }
  }

  /** Gives the memory back, once work that is already queued has used it. A second time does nothing. */
  dispose(): void {
    native.dispose(this.#handle)
  }

  toString(): string {
    return `Tensor(${this.dtype}, (${this.shape.join(', ')}), ${this.device.name}${this.disposed ? ', disposed' : ''})`
  }
}

// What console.log and the debugger of Node show.
Object.defineProperty(Tensor.prototype, Symbol.for('nodejs.util.inspect.custom'), {
  value: Tensor.prototype.toString,
  configurable: true,
  writable: true,
})

// Where the runtime has it, `using t = …` works; declared here without naming a symbol that older lib types lack.
const disposeSymbol = (Symbol as unknown as { dispose?: symbol }).dispose ?? Symbol.for('nodejs.dispose')
Object.defineProperty(Tensor.prototype, disposeSymbol, {
  value: Tensor.prototype.dispose,
  configurable: true,
  writable: true,
})

/** What was made in each open scope, innermost last. */
const scopes: Set<Tensor>[] = []

/**
 * Runs `fn` and frees the tensors made inside, but for those it returns (itself, in arrays, in plain objects and in objects
 * with a `tensors()` method such as caches) and those passed to `keep()`. Synchronous: a thenable result throws.
 */
export function scope<T>(fn: () => T): T {
  const { result, kept } = scoped('scope', fn)
  const outer = scopes.at(-1)
  for (const t of kept) outer?.add(t)
  return result
}

/** @internal what `scope` does, the tensors made inside and returned being nobody's yet */
export function scoped<T>(name: string, fn: () => T): { result: T; kept: Tensor[] } {
  if (typeof fn !== 'function') throw typeError('ERR_OPTION', name, 'a function', shown(fn))
  const own = new Set<Tensor>()
  scopes.push(own)
  let result: T
  try {
    result = fn()
    if (typeof (result as { then?: unknown } | null | undefined)?.then === 'function') {
      throw typeError('ERR_OPTION', name, 'a synchronous function', 'one that returned a promise')
    }
  } catch (error) {
    scopes.pop()
    for (const t of own) t.dispose()
    throw error
  }
  scopes.pop()
  const kept: Tensor[] = []
  try {
    for (const t of [...tensorsIn(result, new Set())]) if (own.delete(t)) kept.push(t)
  } finally {
    for (const t of own) t.dispose()
  }
  return { result, kept }
}

/** @internal the tensors in a result, each once, in their order */
export function* tensorsIn(value: unknown, seen: Set<object>): Iterable<Tensor> {
  if (typeof value !== 'object' || value === null || seen.has(value)) return
  seen.add(value)
  if (Tensor.isTensor(value)) {
    yield value
  } else if (Array.isArray(value)) {
    for (const item of Object.values(value)) yield* tensorsIn(item, seen) // what is there: arrays may be sparse
  } else if (typeof (value as { tensors?: unknown }).tensors === 'function') {
    for (const item of (value as { tensors(): Iterable<unknown> }).tensors()) yield* tensorsIn(item, seen)
  } else if (Object.getPrototypeOf(value) === Object.prototype || Object.getPrototypeOf(value) === null) {
    for (const item of Object.values(value)) yield* tensorsIn(item, seen)
  }
}

/** Takes a tensor out of every open scope, so that it lives until it is disposed. */
export function keep<T extends Tensor>(t: T): T {
  if (!Tensor.isTensor(t)) throw typeError('ERR_DTYPE', 'keep', 'a Tensor', shown(t))
  for (const s of scopes) s.delete(t)
  return t
}

function inferred(shape: unknown, size: number): number[] {
  const dims = checkedShape(shape, 'shape', -1)
  const asked = `(${dims.join(', ')})`
  const unknown = dims.indexOf(-1)
  if (unknown >= 0) {
    dims[unknown] = 1
    const rest = sizeOf(dims)
    dims[unknown] = rest > 0 && size % rest === 0 ? size / rest : -1
  }
  if (sizeOf(dims) !== size || dims.includes(-1)) {
    throw rangeError('ERR_SHAPE', 'shape', `dimensions of ${size} elements in all`, asked)
  }
  return dims
}

/** @internal a Tensor over one of the addon's objects */
export function wrap(handle: Handle): Tensor {
  return new Tensor(made, handle)
}

/**
 * A tensor of data that JavaScript has. The data is copied at the call. `number[]` is float32 unless a dtype is said;
 * a Uint16Array needs its dtype said. Numbers and Float32Arrays become float16 or bfloat16 by rounding to nearest even. Throws ERR_SHAPE, ERR_DTYPE, ERR_DEVICE or ERR_OUT_OF_MEMORY.
 */
export function tensor(data: TensorInput, options: TensorOptions = {}): Tensor {
  checkOptions(options, tensorOptions)
  const { shape, dtype, device } = options
  if (Tensor.isTensor(data)) {
    return scope(() => {
      let t = data.clone()
      if (dtype !== undefined) t = t.to(dtypes[dtypeNumber(dtype)]!)
      if (device !== undefined) t = t.to(chooseDevice(device))
      return shape === undefined ? t : t.reshape(shape)
    })
  }
  const home = chooseDevice(device).id
  const plain = plainInput(data, 'data', shape, dtype)
  const handle = native.fromHost(home, dtypeNumber(plain.dtype), plain.shape, plain.data)
  if (dtype === undefined || dtype === plain.dtype) return wrap(handle)
  try {
    return wrap(native.converted(handle, dtypeNumber(dtype)))
  } finally {
    native.dispose(handle)
  }
}

/** @internal plainOf, for what is not a Tensor and does not pass itself off as one: a Proxy of one has no memory to read. */
export function plainInput(input: unknown, name: string, shape?: readonly number[], dtype?: DType): Plain {
  if (input instanceof Tensor) throw typeError('ERR_DTYPE', name, 'a Tensor', 'a Proxy or an imitation of one')
  return plainOf(input, name, shape, dtype)
}

const tensorOptions = ['shape', 'dtype', 'device'] as const
const emptyOptions = ['dtype', 'device'] as const

/** A tensor whose elements are whatever the memory held. */
export function empty(shape: readonly number[], options: Omit<TensorOptions, 'shape'> = {}): Tensor {
  checkOptions(options, emptyOptions)
  return wrap(
    native.empty(chooseDevice(options.device).id, dtypeNumber(options.dtype ?? 'float32'), checkedShape(shape)),
  )
}

/** A tensor of zeros. */
export function zeros(shape: readonly number[], options: Omit<TensorOptions, 'shape'> = {}): Tensor {
  checkOptions(options, emptyOptions)
  return wrap(
    native.zeros(chooseDevice(options.device).id, dtypeNumber(options.dtype ?? 'float32'), checkedShape(shape)),
  )
}

/** Tensors one after the other along `dim`, copied into a new one. They agree in dtype, device and every other dimension. */
export function cat(list: readonly TensorInput[], dim = 0): Tensor {
  if (!Array.isArray(list) || list.length === 0)
    throw typeError('ERR_SHAPE', 'list', 'an array of at least one tensor', shown(list))
  const inputs: TensorInput[] = []
  for (let i = 0; i < list.length; i++) {
    const input = list[i] as TensorInput | null | undefined
    if (input === undefined || input === null) {
      throw typeError('ERR_DTYPE', `list[${i}]`, 'a Tensor, an array of numbers, or {type, data, dims}', shown(input))
    }
    inputs.push(input)
  }
  const home = inputs.find((t) => Tensor.isTensor(t))?.device
  return scope(() =>
    joined(
      inputs.map((t) => (Tensor.isTensor(t) ? t : tensor(t, { device: home }))),
      dim,
    ),
  )
}

function joined(parts: readonly Tensor[], dim: number): Tensor {
  const first = parts[0]!
  const rank = first.shape.length
  if (!Number.isInteger(dim) || dim < -rank || dim >= rank) {
    throw rangeError('ERR_SHAPE', 'dim', `a whole number from ${-rank} to ${rank - 1}`, shown(dim))
  }
  const d = dim < 0 ? dim + rank : dim
  parts.forEach((t, i) => {
    const fits = t.shape.length === rank && t.shape.every((n, j) => j === d || n === first.shape[j])
    if (!fits) {
      const wanted = first.shape.map((n, j) => (j === d ? 'any' : n)).join(', ')
      throw rangeError('ERR_SHAPE', `list[${i}]`, `shape (${wanted}) as list[0] has`, `(${t.shape.join(', ')})`)
    }
    if (t.dtype !== first.dtype) throw typeError('ERR_DTYPE', `list[${i}]`, `${first.dtype} as list[0] is`, t.dtype)
    if (t.device !== first.device) {
      throw typeError(
        'ERR_DEVICE',
        `list[${i}]`,
        `a tensor on ${first.device.name} as list[0] is`,
        `one on ${t.device.name}`,
      )
    }
  })
  const total = parts.reduce((n, t) => n + t.shape[d]!, 0)
  const result = empty(
    first.shape.map((n, j) => (j === d ? total : n)),
    { dtype: first.dtype, device: first.device },
  )
  let at = 0
  for (const t of parts) {
    const place = result.narrow(d, at, t.shape[d]!)
    place.copyFrom(t)
    place.dispose()
    at += t.shape[d]!
  }
  return result
}

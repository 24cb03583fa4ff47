// Plain inputs: what JavaScript has instead of tensors. Each becomes a typed array of a known dtype and shape.
import { type DType, type TensorData, arrays, dtypeNumber, dtypes } from './dtype.js'
import { SeqmixError, rangeError, shown, typeError } from './errors.js'

/** onnxruntime's form of a tensor, which transformers.js shares. Recognised by its shape, never by its class. */
export interface TensorLike {
  readonly type: string
  readonly data: unknown
  readonly dims: readonly number[]
}

/** Nested arrays of numbers (float32), bigints (int64) or booleans (bool). */
export type NestedArray = readonly (number | bigint | boolean | NestedArray)[]

/** A typed array whose dtype can be told (or is told), a nested array, or onnxruntime's form. */
export type PlainInput = ArrayBufferView | NestedArray | TensorLike | number

export interface Plain {
  data: TensorData
  /** float32 for numbers that were asked for in a 16-bit dtype: the device rounds them. */
  dtype: DType
  shape: number[]
}

/** Of typed arrays that say their dtype by their class. */
const told = new Map<string, DType>([
  ['Float32Array', 'float32'],
  ['Float16Array', 'float16'],
  ['Int32Array', 'int32'],
  ['BigInt64Array', 'int64'],
  ['Int8Array', 'int8'],
])

function isTensorLike(value: object): value is TensorLike {
  return 'type' in value && 'data' in value && 'dims' in value
}

// A typed array may lie: a subclass can define `length`, `buffer` or its tag anew. So they are asked as the engine itself
// would, which also works across realms.
const typedArray = Object.getPrototypeOf(Uint8Array.prototype) as object
const intrinsic = (name: PropertyKey): ((array: ArrayBufferView) => unknown) => {
  const { get } = Object.getOwnPropertyDescriptor(typedArray, name)!
  return (array) => get!.call(array) as unknown
}
const bufferOf = intrinsic('buffer') as (array: ArrayBufferView) => ArrayBufferLike
const byteLengthOf = intrinsic('byteLength') as (array: ArrayBufferView) => number
const byteOffsetOf = intrinsic('byteOffset') as (array: ArrayBufferView) => number
const tagOf = intrinsic(Symbol.toStringTag) as (array: ArrayBufferView) => string | undefined

/** @internal what an array's class calls itself, across realms */
export function className(value: ArrayBufferView): string {
  const tag = tagOf(value) ?? 'DataView'
  // Where the engine has no Float16Array, one that stands in for it keeps its bits in a Uint16Array.
  const told = tag === 'Uint16Array' ? (value as { [Symbol.toStringTag]?: unknown })[Symbol.toStringTag] : tag
  return told === 'Float16Array' ? told : tag
}

/** @internal a shape that the caller gave */
export function checkedShape(shape: unknown, what = 'shape', least = 0): number[] {
  if (!Array.isArray(shape)) throw typeError('ERR_SHAPE', what, 'an array of whole numbers', shown(shape))
  const given = shape as readonly unknown[]
  const rank = given.length
  if (!(rank <= 8)) throw rangeError('ERR_SHAPE', what, 'at most 8 dimensions', shown(rank))
  const checked: number[] = [] // a copy, each entry read once: getters could say something else the next time
  for (let i = 0; i < rank; i++) {
    const n = given[i]
    if (typeof n !== 'number' || !Number.isSafeInteger(n) || n < least) {
      throw rangeError('ERR_SHAPE', what, `whole numbers from ${least} on`, shown(n))
    }
    checked.push(n)
  }
  return checked
}

/** @internal the number of elements; exact, since a shape of more than 2^53 has no data to match it */
export function sizeOf(shape: readonly number[]): number {
  return shape.reduce((n, m) => n * m, 1)
}

export function plainOf(input: unknown, name: string, shape?: readonly number[], dtype?: DType): Plain {
  if (dtype !== undefined) dtypeNumber(dtype)
  const plain = read(input, name, dtype)
  if (shape === undefined) return plain
  const wanted = checkedShape(shape)
  if (sizeOf(wanted) !== sizeOf(plain.shape)) {
    throw rangeError(
      'ERR_SHAPE',
      name,
      `${sizeOf(wanted)} elements for shape (${wanted.join(', ')})`,
      String(sizeOf(plain.shape)),
    )
  }
  return { ...plain, shape: wanted }
}

function read(input: unknown, name: string, dtype: DType | undefined): Plain {
  if (typeof input === 'number' || typeof input === 'bigint' || typeof input === 'boolean')
    return nested(input, name, dtype)
  if (Array.isArray(input)) return nested(input as NestedArray, name, dtype)
  if (ArrayBuffer.isView(input)) return typed(input, name, dtype)
  if (typeof input === 'object' && input !== null && isTensorLike(input)) return tensorLike(input, name, dtype)
  throw typeError(
    'ERR_DTYPE',
    name,
    'a Tensor, a typed array, an array of numbers, or {type, data, dims}',
    shown(input),
  )
}

/** A view of the same memory as the array that holds the dtype's elements. */
function typed(input: ArrayBufferView, name: string, dtype: DType | undefined): Plain {
  const kind = className(input)
  const own = told.get(kind)
  const wanted = dtype ?? own
  if (wanted === undefined) {
    if (kind === 'Uint16Array')
      throw typeError('ERR_DTYPE', name, "dtype: 'float16' or 'bfloat16' beside a Uint16Array", 'none')
    if (kind === 'Uint8Array') throw typeError('ERR_DTYPE', name, "dtype: 'bool' beside a Uint8Array", 'none')
    return converted(input, name, 'float32')
  }
  const holder = arrays[wanted]
  const holds = kind === holder.name || (wanted === 'float16' && kind === 'Float16Array')
  if (!holds) return converted(input, name, wanted)
  // Float16Array through its bytes: Node-API reports its length wrongly on some versions of Node.
  const View = holder as unknown as new (buffer: ArrayBufferLike, offset: number, length: number) => TensorData
  const count = byteLengthOf(input) / holder.BYTES_PER_ELEMENT
  try {
    return { data: new View(bufferOf(input), byteOffsetOf(input), count), dtype: wanted, shape: [count] }
  } catch {
    throw detached(name)
  }
}

function detached(name: string): TypeError {
  return typeError('ERR_DTYPE', name, 'an array with its memory', 'one that was detached')
}

/** The dtype in which JavaScript's numbers of a dtype go to the device, which converts them if it is another. */
function storedAs(dtype: DType): DType {
  return dtype === 'float16' || dtype === 'bfloat16' ? 'float32' : dtype
}

/** Numbers in another kind of array. */
function converted(input: ArrayBufferView, name: string, dtype: DType): Plain {
  const kind = className(input)
  const stored = storedAs(dtype)
  if (stored === 'float32' && (kind === 'Float64Array' || kind === 'Float32Array')) {
    try {
      const data = new Float32Array(input as Float64Array)
      return { data, dtype: stored, shape: [data.length] }
    } catch {
      throw detached(name)
    }
  }
  throw typeError('ERR_DTYPE', name, `a ${arrays[dtype].name} for dtype ${dtype}`, `a ${kind}`)
}

/** How numbers of JavaScript become elements: undefined for what cannot be one. */
interface Element {
  expected: string
  of(value: unknown): number | bigint | undefined
}

const elements: Record<'float32' | 'int8' | 'int32' | 'int64' | 'bool', Element> = {
  float32: { expected: 'numbers', of: (value) => (typeof value === 'number' ? value : undefined) },
  int8: {
    expected: 'whole numbers of 8 bits',
    of: (value) => (typeof value === 'number' && (value << 24) >> 24 === value ? value : undefined),
  },
  int32: {
    expected: 'whole numbers of 32 bits',
    of: (value) => (typeof value === 'number' && (value | 0) === value ? value : undefined),
  },
  int64: {
    expected: 'bigints or whole numbers of 64 bits',
    of: (value) => {
      if (typeof value === 'number') return Number.isSafeInteger(value) ? BigInt(value) : undefined
      return typeof value === 'bigint' && BigInt.asIntN(64, value) === value ? value : undefined
    },
  },
  bool: {
    expected: 'booleans',
    of: (value) => (value === true || value === 1 ? 1 : value === false || value === 0 ? 0 : undefined),
  },
}

function nested(input: NestedArray | number | bigint | boolean, name: string, dtype: DType | undefined): Plain {
  const shape: number[] = []
  let first: unknown = input
  while (Array.isArray(first)) {
    if (shape.length === 8) throw rangeError('ERR_SHAPE', name, 'at most 8 dimensions', 'arrays nested deeper')
    shape.push(first.length)
    first = first.length > 0 ? (first[0] as unknown) : 0
  }
  const own = typeof first === 'bigint' ? 'int64' : typeof first === 'boolean' ? 'bool' : 'float32'
  const wanted = storedAs(dtype ?? own) as keyof typeof elements
  const element = (value: unknown): number | bigint => {
    const e = elements[wanted].of(value)
    if (e !== undefined) return e
    throw typeError('ERR_DTYPE', name, `${elements[wanted].expected} for dtype ${wanted}`, shown(value))
  }
  element(first) // before memory is taken for as many as there are
  const data = allocated(wanted, sizeOf(shape), name)
  let at = 0
  const walk = (item: unknown, depth: number): void => {
    if (depth < shape.length) {
      if (!Array.isArray(item) || item.length !== shape[depth]) throw ragged(name)
      for (let i = 0; i < shape[depth]!; i++) walk(item[i], depth + 1)
      return
    }
    if (Array.isArray(item)) throw ragged(name)
    data[at++] = element(item) as never
  }
  walk(input, 0)
  return { data, dtype: wanted, shape }
}

function allocated(dtype: DType, count: number, name: string): TensorData {
  try {
    return new (arrays[dtype] as unknown as new (length: number) => TensorData)(count)
  } catch (cause) {
    throw new SeqmixError('ERR_OUT_OF_MEMORY', `${name}: expected memory for ${count} elements, got none`, { cause })
  }
}

function ragged(name: string): RangeError {
  return rangeError('ERR_SHAPE', name, 'arrays of one length at each depth', 'a ragged array')
}
function tensorLike(input: TensorLike, name: string, dtype: DType | undefined): Plain {
  const { type, data, dims } = input as { type: unknown; data: unknown; dims: unknown }
  const stored = dtypes[dtypeNumber(type, `${name}.type`)]!
  if (dtype !== undefined && dtype !== stored) throw typeError('ERR_DTYPE', name, dtype, stored)
  const holder = arrays[stored].name
  if (!ArrayBuffer.isView(data)) throw typeError('ERR_DTYPE', name, `its data as a ${holder} in memory`, shown(data))
  const plain = plainOf(data, name, checkedShape(dims, `${name}.dims`), stored)
  if (plain.dtype !== stored)
    throw typeError('ERR_DTYPE', name, `a ${holder} for type ${stored}`, `a ${className(data)}`)
  return plain
}

// Plain inputs: what JavaScript has instead of tensors. Each becomes a typed array of a known dtype and shape.
import { type DType, type TensorData, arrays, dtypeNumber } from './dtype.js'
import { rangeError, shown, typeError } from './errors.js'

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
])

function isTensorLike(value: object): value is TensorLike {
  return (
    'type' in value && 'data' in value && 'dims' in value && Array.isArray(value.dims) && typeof value.type === 'string'
  )
}

/** @internal what an array's class calls itself, across realms */
export function className(value: ArrayBufferView): string {
  return Object.prototype.toString.call(value).slice(8, -1)
}

/** @internal a shape that the caller gave */
export function checkedShape(shape: unknown, what = 'shape'): number[] {
  if (!Array.isArray(shape)) throw typeError('ERR_SHAPE', what, 'an array of whole numbers', shown(shape))
  if (shape.length > 8) throw rangeError('ERR_SHAPE', what, 'at most 8 dimensions', String(shape.length))
  for (const n of shape as unknown[]) {
    if (typeof n !== 'number' || !Number.isSafeInteger(n) || n < 0) {
      throw rangeError('ERR_SHAPE', what, 'whole numbers from 0 on', shown(n))
    }
  }
  return (shape as number[]).slice()
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
  if (input.buffer instanceof ArrayBuffer && (input.buffer as { detached?: boolean }).detached) {
    throw typeError('ERR_DTYPE', name, 'an array with its memory', 'one that was detached')
  }
  const own = told.get(kind)
  const wanted = dtype ?? own
  if (wanted === undefined) {
    if (kind === 'Uint16Array')
      throw typeError('ERR_DTYPE', name, "dtype: 'float16' or 'bfloat16' beside a Uint16Array", 'none')
    if (kind === 'Uint8Array') throw typeError('ERR_DTYPE', name, "dtype: 'bool' beside a Uint8Array", 'none')
    return converted(input, name, 'float32')
  }
  const holder = arrays[wanted]
  const holds =
    kind === holder.name ||
    (wanted === 'float16' && kind === 'Float16Array') ||
    (wanted === 'bool' && kind === 'Uint8Array')
  if (!holds) return converted(input, name, wanted)
  // Float16Array through its bytes: Node-API reports its length wrongly on some versions of Node.
  const count = input.byteLength / holder.BYTES_PER_ELEMENT
  const View = holder as unknown as new (buffer: ArrayBufferLike, offset: number, length: number) => TensorData
  return { data: new View(input.buffer, input.byteOffset, count), dtype: wanted, shape: [count] }
}

/** The dtype in which JavaScript's numbers of a dtype go to the device, which converts them if it is another. */
function storedAs(dtype: DType): DType {
  return dtype === 'float16' || dtype === 'bfloat16' ? 'float32' : dtype
}

/** Numbers in another kind of array, one by one. */
function converted(input: ArrayBufferView, name: string, dtype: DType): Plain {
  const kind = className(input)
  const list = input as unknown as ArrayLike<number | bigint>
  if (typeof list.length !== 'number' || kind === 'DataView') {
    throw typeError('ERR_DTYPE', name, 'an array of numbers', `a ${kind}`)
  }
  const stored = storedAs(dtype)
  if (kind === 'Float64Array' && stored === 'float32')
    return { data: Float32Array.from(list as ArrayLike<number>), dtype: stored, shape: [list.length] }
  if (kind === 'Float32Array' && stored === 'float32')
    return { data: input as Float32Array, dtype: stored, shape: [list.length] }
  throw typeError('ERR_DTYPE', name, `a ${arrays[dtype].name} for dtype ${dtype}`, `a ${kind}`)
}

function nested(input: NestedArray | number | bigint | boolean, name: string, dtype: DType | undefined): Plain {
  const shape: number[] = []
  for (let at: unknown = input; Array.isArray(at); at = at[0] as unknown) {
    shape.push(at.length)
    if (at.length === 0) break
  }
  const flat: unknown[] = []
  const walk = (at: unknown, depth: number): void => {
    if (!Array.isArray(at)) {
      if (depth !== shape.length)
        throw rangeError('ERR_SHAPE', name, 'arrays of one length at each depth', 'a ragged array')
      flat.push(at)
      return
    }
    if (depth >= shape.length || at.length !== shape[depth]) {
      throw rangeError('ERR_SHAPE', name, 'arrays of one length at each depth', 'a ragged array')
    }
    for (const item of at as unknown[]) walk(item, depth + 1)
  }
  walk(input, 0)
  const kind = flat.length ? typeof flat[0] : 'number'
  const wanted = storedAs(dtype ?? (kind === 'bigint' ? 'int64' : kind === 'boolean' ? 'bool' : 'float32'))
  return { data: filled(flat, name, wanted), dtype: wanted, shape }
}

function filled(values: readonly unknown[], name: string, dtype: DType): TensorData {
  const wrong = (value: unknown, expected: string): TypeError => typeError('ERR_DTYPE', name, expected, shown(value))
  const n = values.length
  switch (dtype) {
    case 'int64': {
      const data = new BigInt64Array(n)
      values.forEach((value, i) => {
        if (typeof value !== 'bigint' && !(typeof value === 'number' && Number.isSafeInteger(value))) {
          throw wrong(value, 'bigints or whole numbers for dtype int64')
        }
        data[i] = BigInt(value)
      })
      return data
    }
    case 'int32': {
      const data = new Int32Array(n)
      values.forEach((value, i) => {
        if (typeof value !== 'number' || (value | 0) !== value)
          throw wrong(value, 'whole numbers of 32 bits for dtype int32')
        data[i] = value
      })
      return data
    }
    case 'bool': {
      const data = new Uint8Array(n)
      values.forEach((value, i) => {
        if (value !== true && value !== false && value !== 0 && value !== 1)
          throw wrong(value, 'booleans for dtype bool')
        data[i] = Number(value)
      })
      return data
    }
    default: {
      const data = new Float32Array(n)
      values.forEach((value, i) => {
        if (typeof value !== 'number') throw wrong(value, 'numbers for dtype float32')
        data[i] = value
      })
      return data
    }
  }
}

function tensorLike(input: TensorLike, name: string, dtype: DType | undefined): Plain {
  const type = input.type as DType
  dtypeNumber(type)
  if (dtype !== undefined && dtype !== type) throw typeError('ERR_DTYPE', name, dtype, type)
  if (!ArrayBuffer.isView(input.data)) {
    throw typeError('ERR_DTYPE', name, `its data as a ${arrays[type].name} in memory`, shown(input.data))
  }
  const plain = plainOf(input.data, name, checkedShape(input.dims.slice(), `${name}.dims`), type)
  if (plain.dtype !== type)
    throw typeError('ERR_DTYPE', name, `a ${arrays[type].name} for type ${type}`, `a ${className(input.data)}`)
  return plain
}

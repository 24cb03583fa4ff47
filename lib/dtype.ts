import { shown, typeError } from './errors.js'

/** What a tensor's elements are, by onnxruntime's names. Both 16-bit floats come out as their bits, in a Uint16Array. */
export type DType = 'float32' | 'float16' | 'bfloat16' | 'int32' | 'int64' | 'bool' | 'int8'

/** The dtypes that ops compute with. */
export type FloatDType = 'float32' | 'float16' | 'bfloat16'

/** What holds a tensor's elements in JavaScript. */
export type TensorData = Float32Array | Uint16Array | Int32Array | BigInt64Array | Uint8Array | Int8Array

/** @internal in the addon's order */
export const dtypes: readonly DType[] = ['float32', 'float16', 'bfloat16', 'int32', 'int64', 'bool', 'int8']

/** @internal the addon's number for a dtype */
export function dtypeNumber(dtype: unknown, what = 'dtype'): number {
  const n = dtypes.indexOf(dtype as DType)
  if (n < 0) throw typeError('ERR_DTYPE', what, `one of ${dtypes.join(', ')}`, shown(dtype))
  return n
}

/** @internal whether ops compute with it */
export function isFloat(dtype: unknown): dtype is FloatDType {
  return dtype === 'float32' || dtype === 'float16' || dtype === 'bfloat16'
}

/** @internal an option that names a dtype to compute with */
export function floatOption(value: unknown, name = 'dtype'): FloatDType | undefined {
  if (value === undefined || isFloat(value)) return value
  throw typeError('ERR_DTYPE', name, 'float32, float16 or bfloat16', shown(value))
}

type ArrayMaker = {
  new (buffer: ArrayBuffer): TensorData
  readonly BYTES_PER_ELEMENT: number
}

/** @internal the array that holds each dtype's elements */
export const arrays: Record<DType, ArrayMaker> = {
  float32: Float32Array,
  float16: Uint16Array,
  bfloat16: Uint16Array,
  int32: Int32Array,
  int64: BigInt64Array,
  bool: Uint8Array,
  int8: Int8Array,
}

/** @internal bytes of an element of it */
export function bytesOf(dtype: DType): number {
  return arrays[dtype].BYTES_PER_ELEMENT
}

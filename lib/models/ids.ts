// Token ids as users have them, made into a tensor (b, L). What lies on the host is checked here, at the call; ids that
// are on a device already are checked by the kernel that looks them up.

import { rangeError, SeqmixError, shown, typeError } from '../errors.js'
import { tensor, Tensor, type Device, type TensorLike } from '../index.js'

/** One sequence of token ids, or with nested arrays a batch of sequences of one length. */
export type HostIds = readonly number[] | Int32Array | BigInt64Array | readonly (readonly number[])[]

/** Token ids: on the host, or int32 or int64 (b, L) as a Tensor or in onnxruntime's form. */
export type TokenIds = HostIds | Tensor | TensorLike

/** Ids whose form has been checked. */
export interface CheckedIds {
  readonly batch: number
  /** whether one plain sequence was given, so that results are plain too */
  readonly single: boolean
  /** (b, L) int32 or int64, under a handle that the caller of place() disposes */
  place(device: Device): Tensor
}

/**
 * @param given see {@link TokenIds}
 * @param vocabulary ids must lie below it
 * @throws TypeError or RangeError (ERR_SHAPE, ERR_DTYPE), SeqmixError ERR_INDEX for an id outside the vocabulary
 */
export function checkIds(given: TokenIds, vocabulary: number): CheckedIds {
  if (given instanceof Tensor) {
    const [batch, length] = checkForm(given.dtype, given.shape)
    return { batch, single: false, place: () => given.reshape([batch, length]) }
  }
  const { type, data, dims } = (given ?? {}) as Partial<TensorLike>
  if (Array.isArray(dims) && data !== undefined) {
    const [batch, length] = checkForm(String(type), dims as number[])
    const values = checkValues(Array.from(data as ArrayLike<number | bigint>, Number), vocabulary, (i) => `[${i}]`)
    if (values.length !== batch * length) {
      throw rangeError('ERR_SHAPE', 'ids', `${batch * length} values for dims (${dims.join(', ')})`, `${values.length}`)
    }
    return { batch, single: false, place: (device) => tensor(values, { shape: [batch, length], device }) }
  }
  const rows = toRows(given as HostIds)
  const batch = rows.values.length
  const length = rows.values[0]!.length
  const position = (i: number) => (rows.single ? `[${i}]` : `[${Math.floor(i / length)}][${i % length}]`)
  const values = checkValues(
    rows.values.flatMap((row) => Array.from(row, toNumber)),
    vocabulary,
    position,
  )
  return { batch, single: rows.single, place: (device) => tensor(values, { shape: [batch, length], device }) }
}

function checkForm(dtype: string, shape: readonly number[]): [number, number] {
  if (dtype !== 'int32' && dtype !== 'int64') throw typeError('ERR_DTYPE', 'ids', 'int32 or int64', dtype)
  if (shape.length !== 2 || shape.includes(0)) {
    throw rangeError('ERR_SHAPE', 'ids', 'shape (batch, length) with at least one id', `(${shape.join(', ')})`)
  }
  return [shape[0]!, shape[1]!]
}

function toRows(given: HostIds): { values: number[][]; single: boolean } {
  if (!Array.isArray(given) && !(given instanceof Int32Array) && !(given instanceof BigInt64Array)) {
    const expected = 'token ids (an array, an Int32Array, a BigInt64Array or a Tensor)'
    throw typeError('ERR_DTYPE', 'ids', expected, shown(given))
  }
  const nested = Array.isArray(given) && Array.isArray(given[0])
  const values = nested ? (given as number[][]) : [Array.from(given as ArrayLike<number | bigint>, toNumber)]
  if (values[0]!.length === 0) throw rangeError('ERR_SHAPE', 'ids', 'at least one id', 'none')
  values.forEach((row, r) => {
    if (!Array.isArray(row)) throw typeError('ERR_SHAPE', `ids[${r}]`, 'an array as ids[0] is', shown(row))
    if (row.length !== values[0]!.length) {
      throw rangeError('ERR_SHAPE', `ids[${r}]`, `${values[0]!.length} ids as ids[0] has`, `${row.length}`)
    }
  })
  return { values, single: !nested }
}

// Number() would make an id of '5', null or [].
function toNumber(id: unknown): number {
  return typeof id === 'number' || typeof id === 'bigint' ? Number(id) : NaN
}

function checkValues(values: number[], vocabulary: number, position: (i: number) => string): Int32Array {
  values.forEach((id, i) => {
    if (!Number.isInteger(id) || id < 0 || id >= vocabulary) {
      const expected = `expected an id from 0 to ${vocabulary - 1}`
      throw new SeqmixError('ERR_INDEX', `ids${position(i)}: ${expected}, got ${String(id)}`)
    }
  })
  return Int32Array.from(values)
}

// Token ids as users have them, made into a tensor (b, L). What lies on the host is checked here, at the call; ids that
// are on a device already are checked by the kernel that looks them up.

import { rangeError, SeqmixError, shown, typeError } from '../errors.js'
import { tensor, Tensor, type Device, type TensorLike } from '../index.js'
import { checkedShape } from '../plain.js'

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
  if (Tensor.isTensor(given)) {
    const [batch, length] = checkForm(given.dtype, given.shape)
    return { batch, single: false, place: () => given.reshape([batch, length]) }
  }
  if (given instanceof Tensor) throw typeError('ERR_DTYPE', 'ids', 'a Tensor', 'a Proxy or an imitation of one')
  const { type, data, dims } = (given ?? {}) as Partial<TensorLike>
  if (Array.isArray(dims) && data !== undefined) {
    const [batch, length] = checkForm(String(type), checkedShape(dims, 'ids.dims'))
    const list = expectList(data, 'ids.data')
    if (list.length !== batch * length) {
      throw rangeError('ERR_SHAPE', 'ids', `${batch * length} values for dims (${batch}, ${length})`, `${list.length}`)
    }
    const values = Int32Array.from(checkValues(list, vocabulary, 'ids'))
    return { batch, single: false, place: (device) => tensor(values, { shape: [batch, length], device }) }
  }
  const list = expectList(given, 'ids')
  const single = !Array.isArray(list[0])
  const rows = single ? [checkValues(list, vocabulary, 'ids')] : checkRows(list, vocabulary)
  const batch = rows.length
  const length = rows[0]!.length
  if (length === 0) throw rangeError('ERR_SHAPE', 'ids', 'at least one id', 'none')
  const values = Int32Array.from(rows.flat())
  return { batch, single, place: (device) => tensor(values, { shape: [batch, length], device }) }
}

function checkForm(dtype: string, shape: readonly number[]): [number, number] {
  if (dtype !== 'int32' && dtype !== 'int64')
    throw typeError('ERR_DTYPE', 'ids', 'int32 or int64', /^\w{1,20}$/.test(dtype) ? dtype : shown(dtype))
  if (shape.length !== 2 || shape.includes(0)) {
    throw rangeError('ERR_SHAPE', 'ids', 'shape (batch, length) with at least one id', `(${shape.join(', ')})`)
  }
  return [shape[0]!, shape[1]!]
}

function expectList(given: unknown, name: string): ArrayLike<unknown> {
  if (Array.isArray(given) || given instanceof Int32Array || given instanceof BigInt64Array) return given
  const expected = 'token ids (an array, an Int32Array, a BigInt64Array or a Tensor)'
  throw typeError('ERR_DTYPE', name, expected, shown(given))
}

function checkRows(given: ArrayLike<unknown>, vocabulary: number): number[][] {
  const rows: number[][] = []
  for (let r = 0; r < given.length; r++) {
    const row = given[r]
    if (!Array.isArray(row)) throw typeError('ERR_SHAPE', `ids[${r}]`, 'an array as ids[0] is', shown(row))
    const first = rows[0] ?? row
    if (row.length !== first.length) {
      throw rangeError('ERR_SHAPE', `ids[${r}]`, `${first.length} ids as ids[0] has`, `${row.length}`)
    }
    rows.push(checkValues(row, vocabulary, `ids[${r}]`))
  }
  return rows
}

// Stops at the first that is none, however long the list says it is. Number() would make an id of '5', null or [].
function checkValues(list: ArrayLike<unknown>, vocabulary: number, name: string): number[] {
  const values: number[] = []
  for (let i = 0; i < list.length; i++) {
    const given = list[i]
    const id = typeof given === 'bigint' ? Number(given) : given
    if (typeof id !== 'number' || !Number.isInteger(id) || id < 0 || id >= vocabulary) {
      const expected = `expected an id from 0 to ${vocabulary - 1}`
      throw new SeqmixError('ERR_INDEX', `${name}[${i}]: ${expected}, got ${shown(given)}`)
    }
    values.push(id)
  }
  return values
}

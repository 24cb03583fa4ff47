// Safetensors in memory: what caches are saved as and restored from.

import { rangeError, SeqmixError } from '../errors.js'
import type { DType } from '../index.js'
import { headerLength, parseHeader, PREFIX_BYTES, STORED_DTYPES } from './format.js'
import { allocate, checkReadable, type StoredTensor } from './reader.js'

const FILE_NAMES = Object.fromEntries(Object.entries(STORED_DTYPES).map(([file, ours]) => [ours, file])) as Record<
  DType,
  string
>
const ELEMENT_BYTES: Record<DType, number> = {
  int64: 8,
  float32: 4,
  int32: 4,
  float16: 2,
  bfloat16: 2,
  bool: 1,
  int8: 1,
}

/** The bytes before the data, and the tensors in the order in which their bytes follow. */
export function layOut(
  tensors: Readonly<Record<string, StoredTensor>>,
  metadata: Readonly<Record<string, string>>,
): { head: Uint8Array; order: [string, StoredTensor][] } {
  // Wide elements first, as the format's own writer has it: every tensor then begins at a multiple of its element size.
  const order = Object.entries(tensors).sort(
    ([a, x], [b, y]) => ELEMENT_BYTES[y.dtype] - ELEMENT_BYTES[x.dtype] || (a < b ? -1 : 1),
  )
  const entries: [string, unknown][] = Object.keys(metadata).length > 0 ? [['__metadata__', metadata]] : []
  let at = 0
  for (const [name, t] of order) {
    const expected = t.shape.reduce((n, s) => n * s, ELEMENT_BYTES[t.dtype])
    if (name === '__metadata__') throw rangeError('ERR_OPTION', 'tensors', 'names other than __metadata__', 'it')
    if (expected !== t.data.byteLength) {
      throw rangeError(
        'ERR_SHAPE',
        name,
        `${expected} bytes for ${t.dtype} (${t.shape.join(', ')})`,
        `${t.data.byteLength}`,
      )
    }
    entries.push([name, { dtype: FILE_NAMES[t.dtype], shape: t.shape, data_offsets: [at, at + expected] }])
    at += expected
  }
  const json = new TextEncoder().encode(JSON.stringify(Object.fromEntries(entries)))
  const padded = Math.ceil(json.length / 8) * 8
  const head = new Uint8Array(PREFIX_BYTES + padded).fill(0x20)
  new DataView(head.buffer).setBigUint64(0, BigInt(padded), true)
  head.set(json, PREFIX_BYTES)
  return { head, order }
}

/** The bytes of a tensor's values, without a copy. */
export function bytesOf(t: StoredTensor): Uint8Array {
  return new Uint8Array(t.data.buffer, t.data.byteOffset, t.data.byteLength)
}

/**
 * Tensors as the bytes of a safetensors file.
 *
 * @param tensors by name; data of float16 and bfloat16 are bits in a Uint16Array
 * @param metadata strings to keep beside them
 */
export function encodeSafetensors(
  tensors: Readonly<Record<string, StoredTensor>>,
  metadata: Readonly<Record<string, string>> = {},
): Uint8Array {
  const { head, order } = layOut(tensors, metadata)
  const total = order.reduce((n, [, t]) => n + t.data.byteLength, head.length)
  const out = new Uint8Array(total)
  out.set(head)
  let at = head.length
  for (const [, t] of order) {
    out.set(bytesOf(t), at)
    at += t.data.byteLength
  }
  return out
}

/**
 * What {@link encodeSafetensors} made, or any safetensors file in memory.
 *
 * @param bytes the whole file; the result shares no memory with it
 * @param name what messages call it
 * @throws SeqmixError ERR_CHECKPOINT where it is damaged, ERR_UNSUPPORTED for dtypes that cannot be held
 */
export function decodeSafetensors(
  bytes: Uint8Array,
  name = 'safetensors',
): { tensors: Record<string, StoredTensor>; metadata: Readonly<Record<string, string>> } {
  if (!(bytes instanceof Uint8Array))
    throw new SeqmixError('ERR_CHECKPOINT', `${name}: expected a Uint8Array, got ${typeof bytes}`)
  const length = headerLength(bytes.subarray(0, PREFIX_BYTES), bytes.length, name)
  const { tensors, metadata } = parseHeader(bytes.subarray(PREFIX_BYTES, PREFIX_BYTES + length), bytes.length, name)
  const entries = [...tensors.values()].map((info): [string, StoredTensor] => {
    const dtype = checkReadable(info)
    const data = allocate(info, dtype)
    new Uint8Array(data.buffer).set(bytes.subarray(info.offset, info.offset + info.bytes))
    return [info.name, { dtype, shape: info.shape, data }]
  })
  return { tensors: Object.fromEntries(entries), metadata }
}

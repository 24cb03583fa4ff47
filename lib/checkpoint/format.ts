// The safetensors format: 8 bytes that hold the header's length (unsigned, little endian), the header (a JSON object
// from a tensor's name to its dtype, shape and data_offsets), then the tensors' bytes without a hole between them.
// This file reads and checks a header; it opens nothing.

import { SeqmixError } from '../errors.js'
import type { DType } from '../index.js'

/** Where a tensor lies in a checkpoint. */
export interface TensorInfo {
  readonly name: string
  /** one of seqmix's dtypes, or the name in the file (F64, U8 …) where seqmix cannot hold it */
  readonly dtype: DType | (string & {})
  readonly shape: readonly number[]
  /** the file it lies in */
  readonly file: string
  /** position of its first byte in the file */
  readonly offset: number
  /** number of bytes */
  readonly bytes: number
}

/** What a safetensors file says of itself. */
export interface Header {
  readonly tensors: ReadonlyMap<string, TensorInfo>
  readonly metadata: Readonly<Record<string, string>>
}

/** Bytes before the header. */
export const PREFIX_BYTES = 8

/** Headers longer than this are damage, not data (the limit of the format's own implementation). */
export const MAX_HEADER_BYTES = 100_000_000

/** The dtypes that are read and written, by their names in a file. */
export const STORED_DTYPES: Readonly<Record<string, DType>> = {
  F32: 'float32',
  F16: 'float16',
  BF16: 'bfloat16',
  I32: 'int32',
  I64: 'int64',
  BOOL: 'bool',
  I8: 'int8',
}

// Bits an element takes, for every dtype the format defines: sizes are checked for those that cannot be read too.
const BITS: Readonly<Record<string, number>> = {
  BOOL: 8, U8: 8, I8: 8, F8_E5M2: 8, F8_E4M3: 8, F8_E8M0: 8, F8_E4M3FNUZ: 8, F8_E5M2FNUZ: 8, F4: 4, F6_E2M3: 6, F6_E3M2: 6,
  I16: 16, U16: 16, F16: 16, BF16: 16, I32: 32, U32: 32, F32: 32, I64: 64, U64: 64, F64: 64, C64: 64,
} // prettier-ignore

/** An ERR_CHECKPOINT that names the file. */
export function damaged(file: string, message: string, cause?: unknown): SeqmixError {
  return new SeqmixError('ERR_CHECKPOINT', `${file}: ${message}`, cause === undefined ? undefined : { cause })
}

/**
 * The header's length from the first eight bytes of a file.
 *
 * @throws SeqmixError ERR_CHECKPOINT where the file is too short for it or it is absurd
 */
export function headerLength(prefix: Uint8Array, fileBytes: number, file: string): number {
  if (prefix.length < PREFIX_BYTES) {
    throw damaged(file, `truncated: expected 8 bytes of header length at byte 0, got ${prefix.length}`)
  }
  const length = new DataView(prefix.buffer, prefix.byteOffset, PREFIX_BYTES).getBigUint64(0, true)
  if (length > BigInt(MAX_HEADER_BYTES)) {
    throw damaged(file, `header length at byte 0: expected at most ${MAX_HEADER_BYTES}, got ${length}`)
  }
  if (length < 2n) throw damaged(file, `header length at byte 0: expected at least 2, got ${length}`)
  if (Number(length) > fileBytes - PREFIX_BYTES) {
    throw damaged(
      file,
      `truncated in the header: expected ${length} bytes from byte 8, the file ends at byte ${fileBytes}`,
    )
  }
  return Number(length)
}

/**
 * Reads a header and checks it against the file's size.
 *
 * @param bytes the header itself, without the eight bytes before it
 * @param fileBytes the size of the whole file
 * @param file the file's name, for messages
 * @throws SeqmixError ERR_CHECKPOINT that names the tensor and the byte
 */
export function parseHeader(bytes: Uint8Array, fileBytes: number, file: string): Header {
  const dataStart = PREFIX_BYTES + bytes.length
  const entries = parseJson(bytes, file)
  const tensors = new Map<string, TensorInfo>()
  let metadata: Record<string, string> = {}
  for (const [name, value] of entries) {
    if (name === '__metadata__') metadata = checkMetadata(value, file)
    else tensors.set(name, checkEntry(name, value, dataStart, file))
  }
  checkCover([...tensors.values()], dataStart, fileBytes, file)
  return { tensors, metadata }
}

function parseJson(bytes: Uint8Array, file: string): [string, unknown][] {
  let text: string
  try {
    text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes)
  } catch (cause) {
    throw damaged(file, 'the header (from byte 8) is not UTF-8', cause)
  }
  if (text[0] !== '{') throw damaged(file, `header at byte 8: expected '{', got ${JSON.stringify(text[0])}`)
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch (cause) {
    const message = (cause as Error).message
    const at = /position (\d+)/.exec(message)
    const where = at ? `byte ${PREFIX_BYTES + Buffer.byteLength(text.slice(0, Number(at[1])))}` : 'byte 8 on'
    throw damaged(file, `the header is not JSON (${where}): ${message}`, cause)
  }
  const duplicate = findDuplicateKey(text)
  if (duplicate) {
    const byte = PREFIX_BYTES + Buffer.byteLength(text.slice(0, duplicate.position))
    throw damaged(file, `${duplicate.key}: said twice in the header, again at byte ${byte}`)
  }
  return Object.entries(value as object)
}

/**
 * The first key that one object of a JSON text has twice (JSON.parse would keep the last one silently).
 *
 * @param text valid JSON
 */
export function findDuplicateKey(text: string): { key: string; position: number } | undefined {
  // One set of keys for each object that is open; undefined stands for an array.
  const open: (Set<string> | undefined)[] = []
  const string = /"(?:[^"\\]|\\.)*"/gy
  for (let i = 0; i < text.length; i++) {
    const c = text[i]
    if (c === '{') open.push(new Set())
    else if (c === '[') open.push(undefined)
    else if (c === '}' || c === ']') open.pop()
    else if (c === '"') {
      string.lastIndex = i
      const literal = string.exec(text)![0]
      const start = i
      i += literal.length - 1
      let after = i + 1
      while (' \t\n\r'.includes(text[after] ?? '.')) after++
      const keys = open.at(-1)
      if (text[after] !== ':' || !keys) continue
      const key = JSON.parse(literal) as string
      if (keys.has(key)) return { key, position: start }
      keys.add(key)
    }
  }
  return undefined
}

function checkMetadata(value: unknown, file: string): Record<string, string> {
  const good = isObject(value) && Object.values(value).every((v) => typeof v === 'string')
  if (!good) throw damaged(file, '__metadata__: expected an object of strings')
  return value as Record<string, string>
}

function checkEntry(name: string, value: unknown, dataStart: number, file: string): TensorInfo {
  if (!isObject(value))
    throw damaged(file, `${name}: expected an object with dtype, shape and data_offsets, got ${show(value)}`)
  const { dtype, shape, data_offsets: offsets } = value
  if (typeof dtype !== 'string') throw damaged(file, `${name}: dtype: expected a string, got ${show(dtype)}`)
  if (!Array.isArray(shape) || !shape.every(isCount)) {
    throw damaged(file, `${name}: shape: expected an array of non-negative integers, got ${show(shape)}`)
  }
  if (!Array.isArray(offsets) || offsets.length !== 2 || !offsets.every(isCount)) {
    throw damaged(file, `${name}: data_offsets: expected two non-negative integers, got ${show(offsets)}`)
  }
  const [begin, end] = offsets as [number, number]
  if (begin > end) throw damaged(file, `${name}: data_offsets: expected begin ≤ end, got ${show(offsets)}`)
  if (!Number.isSafeInteger(dataStart + end))
    throw damaged(file, `${name}: data_offsets: ${end} is past the largest exact integer`)
  checkSize(name, dtype, shape as number[], begin, end, dataStart, file)
  return {
    name,
    dtype: STORED_DTYPES[dtype] ?? dtype,
    shape: Object.freeze([...(shape as number[])]),
    file,
    offset: dataStart + begin,
    bytes: end - begin,
  }
}

function checkSize(
  name: string,
  dtype: string,
  shape: readonly number[],
  begin: number,
  end: number,
  dataStart: number,
  file: string,
): void {
  const bits = BITS[dtype]
  if (bits === undefined) return // a dtype this version has not heard of: reading the tensor says so
  // In BigInt, since shapes of a damaged file can multiply past what a number holds exactly.
  const expected = shape.reduce((n, s) => n * BigInt(s), BigInt(bits))
  if (expected !== BigInt(end - begin) * 8n) {
    const size = expected % 8n === 0n ? `${expected / 8n} bytes` : `${expected} bits`
    throw damaged(
      file,
      `${name}: expected ${size} for ${dtype} (${shape.join(', ')}), data_offsets give ${end - begin} at byte ${dataStart + begin}`,
    )
  }
}

// The tensors must cover the data from its first byte to the file's last, each byte once.
function checkCover(tensors: TensorInfo[], dataStart: number, fileBytes: number, file: string): void {
  let at = dataStart
  let before = 'the header'
  for (const t of tensors.sort((a, b) => a.offset - b.offset || a.bytes - b.bytes)) {
    if (t.offset > at)
      throw damaged(file, `${t.name}: a hole of ${t.offset - at} bytes before it, from byte ${at}, after ${before}`)
    if (t.offset < at)
      throw damaged(file, `${t.name}: begins at byte ${t.offset}, inside ${before}, which ends at byte ${at}`)
    at = t.offset + t.bytes
    if (at > fileBytes)
      throw damaged(file, `${t.name}: expected bytes ${t.offset} to ${at}, the file ends at byte ${fileBytes}`)
    before = t.name
  }
  if (at < fileBytes) throw damaged(file, `${fileBytes - at} bytes after the last tensor (${before}), from byte ${at}`)
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

function isCount(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0
}

function show(value: unknown): string {
  const text = JSON.stringify(value) ?? 'nothing'
  return text.length > 60 ? `${text.slice(0, 57)}…` : text
}

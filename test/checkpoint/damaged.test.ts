// Damaged files: every one is an ERR_CHECKPOINT that says where, or is read right; nothing else ever comes out.

import { writeFileSync } from 'node:fs'
import { join } from 'node:path'

import fc from 'fast-check'
import { describe, expect, test } from 'vitest'

import { decodeSafetensors, encodeSafetensors, openCheckpoint } from '../../lib/checkpoint/index.js'
import { failure, rawFile, temporaryFolder } from './files.js'

const folder = temporaryFolder()
const none = new Uint8Array(0)
const four = new Uint8Array(4)
const one = (fields: string) => `{"t":{${fields}}}`
const f32 = (shape: string, offsets: string) => one(`"dtype":"F32","shape":${shape},"data_offsets":${offsets}`)

const files: [string, Uint8Array, RegExp][] = [
  ['an empty file', none, /truncated: expected 8 bytes of header length at byte 0, got 0/],
  ['half a header length', four, /expected 8 bytes of header length at byte 0, got 4/],
  ['a header length of 0', rawFile('{}', none, 0n), /header length at byte 0: expected at least 2, got 0/],
  ['a header longer than any', rawFile('{}', none, 2n ** 63n), /header length at byte 0: expected at most 100000000, got 9223372036854775808/],
  ['a header longer than the file', rawFile('{}', none, 3n), /truncated in the header: expected 3 bytes from byte 8, the file ends at byte 10/],
  ['a header that is no object', rawFile('[]', none), /header at byte 8: expected '{', got "\["/],
  ['a header with a space before it', rawFile(' {}', none), /header at byte 8: expected '{'/],
  ['a header that ends early', rawFile('{"t":', none), /the header is not JSON/],
  ['a header with a stray comma', rawFile('{"t":1,,}', none), /the header is not JSON \(byte 15\)/],
  ['a header that is no UTF-8', rawFile(Uint8Array.of(0x7b, 0xff, 0x7d), none), /the header \(from byte 8\) is not UTF-8/],
  ['a name twice', rawFile('{"tt":{"dtype":"F32","shape":[0],"data_offsets":[0,0]},"t\\u0074":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}', none), /tt: said twice in the header, again at byte 63/],
  ['a field twice', rawFile(one('"dtype":"F32","dtype":"F16","shape":[0],"data_offsets":[0,0]'), none), /dtype: said twice/],
  ['metadata that is no object', rawFile('{"__metadata__":3}', none), /__metadata__: expected an object of strings/],
  ['metadata of numbers', rawFile('{"__metadata__":{"a":3}}', none), /__metadata__: expected an object of strings/],
  ['a tensor that is no object', rawFile('{"t":[]}', none), /t: expected an object with dtype, shape and data_offsets/],
  ['a tensor that is null', rawFile('{"t":null}', none), /t: expected an object/],
  ['no dtype', rawFile(one('"shape":[1],"data_offsets":[0,4]'), four), /t: dtype: expected a string, got nothing/],
  ['no shape', rawFile(one('"dtype":"F32","data_offsets":[0,4]'), four), /t: shape: expected an array of non-negative integers, got nothing/],
  ['no offsets', rawFile(one('"dtype":"F32","shape":[1]'), four), /t: data_offsets: expected two non-negative integers/],
  ['a negative size', rawFile(f32('[-1]', '[0,4]'), four), /t: shape: .* got \[-1\]/],
  ['half a size', rawFile(f32('[0.5]', '[0,2]'), four), /t: shape: .* got \[0.5\]/],
  ['a size past what is exact', rawFile(f32('[9007199254740993]', '[0,4]'), four), /t: shape:/],
  ['sizes whose product is past what is exact', rawFile(f32('[4294967296,4294967296,4294967296]', '[0,4]'), four), /t: expected 316912650057057350374175801344 bytes/],
  ['one offset', rawFile(f32('[1]', '[4]'), four), /t: data_offsets:/],
  ['three offsets', rawFile(f32('[1]', '[0,2,4]'), four), /t: data_offsets:/],
  ['a negative offset', rawFile(f32('[1]', '[-4,0]'), four), /t: data_offsets:/],
  ['offsets in the wrong order', rawFile(f32('[1]', '[4,0]'), four), /t: data_offsets: expected begin ≤ end/],
  ['an offset past what is exact', rawFile(f32('[1]', '[9007199254740987,9007199254740991]'), four), /t: data_offsets: 9007199254740991 is past/],
  ['fewer bytes than the shape', rawFile(f32('[2]', '[0,4]'), four), /t: expected 8 bytes for F32 \(2\), data_offsets give 4 at byte 62/],
  ['more bytes than the shape', rawFile(f32('[]', '[0,8]'), new Uint8Array(8)), /t: expected 4 bytes for F32 \(\), data_offsets give 8/],
  ['a tensor past the end', rawFile(f32('[2]', '[0,8]'), four), /t: expected bytes 62 to 70, the file ends at byte 66/],
  ['bytes after the last tensor', rawFile(f32('[1]', '[0,4]'), new Uint8Array(9)), /5 bytes after the last tensor \(t\), from byte 66/],
  ['a hole before a tensor', rawFile(f32('[1]', '[4,8]'), new Uint8Array(8)), /t: a hole of 4 bytes before it, from byte 62, after the header/],
  ['tensors that overlap', rawFile('{"s":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"t":{"dtype":"F32","shape":[1],"data_offsets":[2,6]}}', new Uint8Array(6)), /t: begins at byte 117, inside s, which ends at byte 119/],
  ['a hole between tensors', rawFile('{"s":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"t":{"dtype":"F32","shape":[1],"data_offsets":[8,12]}}', new Uint8Array(12)), /t: a hole of 4 bytes before it, from byte 120, after s/],
] // prettier-ignore

describe('damaged files', () => {
  test.each(files)('%s', async (what, bytes, message) => {
    const file = join(folder, `${what}.safetensors`)
    writeFileSync(file, bytes)
    const error = await failure(openCheckpoint(file))
    expect(error.message).toMatch(message)
    expect(error.message).toContain(file)
    expect(error).toMatchObject({ code: 'ERR_CHECKPOINT', name: 'SeqmixError' })
  })

  test('a file cut short while it is open', async () => {
    const file = join(folder, 'shrinking.safetensors')
    writeFileSync(file, rawFile(f32('[1]', '[0,4]'), four))
    const checkpoint = await openCheckpoint(file)
    writeFileSync(file, rawFile(f32('[1]', '[0,4]'), four).subarray(0, 64))
    expect((await failure(checkpoint.read('t'))).message).toMatch(
      /t: the file ends at byte 64, expected bytes 62 to 66/,
    )
    await checkpoint.close()
  })

  test('names that JavaScript objects have of themselves', async () => {
    const file = join(folder, 'prototype.safetensors')
    writeFileSync(file, rawFile('{"__proto__":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}', four))
    const checkpoint = await openCheckpoint(file)
    expect(checkpoint.names()).toEqual(['__proto__'])
    expect(checkpoint.has('toString')).toBe(false)
    await checkpoint.close()
  })
})

describe('random damage', () => {
  const valid = encodeSafetensors(
    {
      weights: { dtype: 'float32', shape: [3, 2], data: Float32Array.of(1, 2, 3, 4, 5, 6) },
      ids: { dtype: 'int64', shape: [2], data: BigInt64Array.of(1n, -1n) },
      half: { dtype: 'bfloat16', shape: [3], data: Uint16Array.of(1, 2, 3) },
    },
    { format: 'pt' },
  )
  const dataStart = 8 + Number(new DataView(valid.buffer).getBigUint64(0, true))

  // A right answer of a damaged file: tensors that cover the data, or a clean error.
  function readOrRefuse(bytes: Uint8Array): void {
    try {
      const { tensors } = decodeSafetensors(bytes)
      const total = Object.values(tensors).reduce((n, t) => n + t.data.byteLength, 0)
      expect(total).toBe(bytes.length - 8 - Number(new DataView(bytes.buffer, bytes.byteOffset).getBigUint64(0, true)))
    } catch (error) {
      expect(['ERR_CHECKPOINT', 'ERR_UNSUPPORTED']).toContain((error as { code?: string }).code)
    }
  }

  test('any truncation is an error', () => {
    for (let length = 0; length < valid.length; length++) {
      expect(() => decodeSafetensors(valid.slice(0, length))).toThrow(
        expect.objectContaining({ code: 'ERR_CHECKPOINT' }),
      )
    }
  })

  test('any byte of the header changed to any other', () => {
    fc.assert(
      fc.property(fc.array(fc.tuple(fc.nat(dataStart - 1), fc.nat(255)), { minLength: 1, maxLength: 4 }), (flips) => {
        const bytes = valid.slice()
        for (const [at, value] of flips) bytes[at] = value
        readOrRefuse(bytes)
      }),
      { numRuns: 3000 },
    )
  })

  test('numbers of the header changed to others', () => {
    const header = new TextDecoder().decode(valid.subarray(8, dataStart))
    const numbers = [...header.matchAll(/\d+/g)]
    const others = fc.constantFrom(
      '0',
      '1',
      '4',
      '24',
      '40',
      '46',
      '-1',
      '1e3',
      '1e400',
      '1.5',
      '9007199254740992',
      'null',
      '"4"',
    )
    fc.assert(
      fc.property(fc.nat(numbers.length - 1), others, (which, other) => {
        const { index, 0: number } = numbers[which]!
        readOrRefuse(
          rawFile(header.slice(0, index) + other + header.slice(index + number.length), valid.subarray(dataStart)),
        )
      }),
      { numRuns: 500 },
    )
  })

  test('bytes cut out or put in', () => {
    fc.assert(
      fc.property(fc.nat(valid.length), fc.nat(16), fc.uint8Array({ maxLength: 16 }), (at, cut, put) => {
        readOrRefuse(Uint8Array.from([...valid.subarray(0, at), ...put, ...valid.subarray(at + cut)]))
      }),
      { numRuns: 1000 },
    )
  })

  test('bytes that are nothing at all', () => {
    fc.assert(fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => readOrRefuse(bytes)))
  })
})
